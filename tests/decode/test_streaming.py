"""Streams against the whole: features, encoder and searches, in pieces of any size."""

import pytest
import torch

from tests.decode.bigram import Bigram
from tests.decode.small_transducer import assert_alike, earlier
from tests.models.small_zipformer import make_config
from toolkit.decode.endpoint import EndpointConfig, EndpointRule
from toolkit.decode.latency import Simulation, latency, simulate
from toolkit.decode.online_fbank import OnlineFbank
from toolkit.decode.registry import SEARCHES
from toolkit.decode.streaming import StreamingConfig, StreamingRecognizer
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.conformer import ConformerConfig
from toolkit.models.frontend import FbankFrontendConfig
from toolkit.models.predictors import StatelessConfig
from toolkit.models.transducer import TransducerConfig
from toolkit.nn.features import Fbank, FbankConfig

SYMBOLS = 6
LENGTHS = 34567, 16000, 9001, 1600, 300
ONE_UTTERANCE = StreamingConfig(endpoint=EndpointConfig(enabled=False))


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_model(normalize=False, encoder=None):
    """Its weights are so large that it has something to say."""
    torch.manual_seed(3)
    speech = SpeechConfig(FbankFrontendConfig(normalize=normalize), encoder or make_config(causal=True))
    transducer = TransducerConfig(scale=1.0, predictor=StatelessConfig(dim=8), joiner_dim=8)
    model = AsrModel(SpeechEncoder(speech), SYMBOLS, CtcConfig(), transducer, AttentionConfig()).eval()
    with torch.no_grad():
        for parameter in model.speech.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for head in (model.ctc, model.transducer):
            for parameter in head.parameters():
                parameter.copy_(torch.randn_like(parameter))
    return model


def make_audio(*lengths):
    """Noise that comes and goes."""
    generator = torch.Generator().manual_seed(5)
    waves = [torch.randn(length, generator=generator) for length in lengths]
    return [wave * (0.02 + torch.linspace(0, 19, len(wave)).sin().square() / 5) for wave in waves]


def make_search(model, name):
    kind, _, fused = name.partition("+")
    search = SEARCHES[kind](SEARCHES[kind].Config(), model, None, "cpu")
    if fused:
        search.scorer = Bigram(SYMBOLS)
    return search


def assert_said(segments):
    assert sum(len(segment.hypotheses[0].tokens) for segment in segments) > 5


@pytest.mark.parametrize("samples", [0, 79, 80, 119, 120, 199, 279, 280, 399, 400, 1000, 16000])
@pytest.mark.parametrize("block", [1, 160, 1009, 16000])
@pytest.mark.parametrize("snip_edges", [False, True])
def test_features_of_pieces_are_those_of_the_whole(samples, block, snip_edges):
    if samples > 2000 and block == 1:
        block = 37
    fbank = Fbank(FbankConfig(snip_edges=snip_edges)).eval()
    torch.manual_seed(samples)
    audio = 0.1 * torch.randn(samples)
    expected = fbank(audio[None], torch.tensor([samples]))[0][0]
    online = OnlineFbank(fbank)
    pieces = [online.accept(piece) for piece in audio.split(block)]
    # What can be known is there at once: the next frame would need samples that were not there.
    assert online.config.span(online.frames + 1)[1] > samples
    found = torch.cat([*pieces, online.finish()])
    assert found.shape == expected.shape and online.frames == len(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ctc_greedy", "greedy", "modified_beam", "modified_beam+scorer"])
def test_streams_say_what_the_whole_says(model, name):
    """Five streams that are fed at their own pace, and recognised in batches that change."""
    search = make_search(model, name)
    recognizer = StreamingRecognizer(model, search, ONE_UTTERANCE)
    audio = make_audio(*LENGTHS)
    streams = [recognizer.start() for _ in audio]
    blocks = [list(wave.split(size)) for wave, size in zip(audio, (777, 5000, 40, 1600, 111), strict=True)]
    while any(blocks):
        for stream, left in zip(streams, blocks, strict=True):
            if left:
                stream.accept(left.pop(0))
            elif not stream.finished:
                stream.finish()
        recognizer.decode(streams)
    for stream in streams:
        stream.finish()
    recognizer.decode(streams)
    for wave, stream in zip(audio, streams, strict=True):
        output = model.speech(wave[None], torch.tensor([len(wave)]))
        (expected,) = search(output.frames, output.lengths)
        (segment,) = stream.segments
        assert (segment.start, segment.end, segment.rule) == (0, int(output.lengths), None)
        assert_alike(segment.hypotheses, expected)
        assert not stream.partial().hypotheses[0].tokens and stream.finished and not stream.ready
    assert_said(streams[0].segments)


@pytest.mark.parametrize(
    "sizes", [{"chunk_size": 16, "left_context": 32}, {"chunk_size": 8, "left_context": 64}]
)
def test_other_chunks(model, sizes):
    (audio,) = make_audio(30000)
    search = make_search(model, "greedy")
    config = StreamingConfig(**sizes, endpoint=EndpointConfig(enabled=False))
    ((segment,),) = StreamingRecognizer(model, search, config)([audio])
    other = make_model(encoder=make_config(causal=True, **sizes))
    with torch.no_grad():
        output = other.speech(audio[None], torch.tensor([len(audio)]))
    assert_alike(segment.hypotheses, search(output.frames, output.lengths)[0])


def test_partial_results_grow(model):
    recognizer = StreamingRecognizer(model, make_search(model, "greedy"), ONE_UTTERANCE)
    stream, found = recognizer.start(), []
    for piece in make_audio(32000)[0].split(3200):
        stream.accept(piece)
        recognizer.decode([stream])
        found.append(stream.partial())
    stream.finish()
    recognizer.decode([stream])
    whole = stream.segments[0].hypotheses[0].tokens
    for before, after in zip(found, found[1:], strict=False):
        tokens = before.hypotheses[0].tokens
        assert tokens == after.hypotheses[0].tokens[: len(tokens)] == whole[: len(tokens)]
        assert before.end <= after.end
    assert 0 < len(found[4].hypotheses[0].tokens) < len(whole)
    with pytest.raises(ValueError, match="a new recording needs a new stream"):
        stream.accept(torch.zeros(10))


def test_endpoints_cut_a_stream_into_utterances(model):
    """After an endpoint the search begins anew, the encoder goes on, and so do the times."""
    rule = EndpointConfig(too_long=EndpointRule(seconds=0.5))
    search = make_search(model, "modified_beam")
    (audio,) = make_audio(40000)
    (segments,) = StreamingRecognizer(model, search, StreamingConfig(endpoint=rule))([audio])
    with torch.no_grad():
        output = model.speech(audio[None], torch.tensor([len(audio)]))
    # Chunks of 8 frames at 50 Hz are 4 of the output: 13 frames reach half a second, 16 are whole chunks.
    expected = [(start, min(start + 16, int(output.lengths))) for start in range(0, int(output.lengths), 16)]
    assert [(segment.start, segment.end) for segment in segments] == expected
    assert [segment.rule for segment in segments] == ["too_long"] * (len(segments) - 1) + [None]
    for start, end, (best,), _ in segments:
        ((alone,),) = search(output.frames[:, start:end], torch.tensor([end - start]))
        assert_alike([earlier(best, start)], [alone])


def test_silence_ends_an_utterance_and_is_none_itself(model):
    """CTC of this model says nothing where the last layer is made to say blank."""
    silent = make_model()
    with torch.no_grad():
        silent.ctc[1].bias[0] += 1000
    config = StreamingConfig(endpoint=EndpointConfig(nothing_said=EndpointRule(silence=0.4)))
    recognizer = StreamingRecognizer(silent, make_search(silent, "ctc_greedy"), config)
    stream = recognizer.start()
    stream.accept(make_audio(32000)[0])
    recognizer.decode([stream])
    # Chunks of 4 frames of 40 ms: every third of them ends 0.4 s of silence.
    assert not stream.segments and (stream.partial().start, stream.partial().end) == (36, 44)
    stream.finish()
    recognizer.decode([stream])
    (segment,) = stream.segments
    assert not segment.hypotheses[0].tokens


@pytest.mark.parametrize("samples", [0, 79])
def test_a_stream_without_a_frame(model, samples):
    stream = StreamingRecognizer(model, make_search(model, "greedy"), ONE_UTTERANCE).start()
    stream.accept(torch.zeros(samples))
    stream.finish()
    assert not stream.ready
    (segment,) = stream.segments
    assert (segment.start, segment.end, segment.hypotheses[0].tokens) == (0, 0, [])


def test_silence_behind_the_end(model):
    (audio,) = make_audio(16000)
    search = make_search(model, "greedy")
    config = StreamingConfig(tail_seconds=0.5, endpoint=EndpointConfig(enabled=False))
    ((with_tail,),) = StreamingRecognizer(model, search, config)([audio])
    ((longer,),) = StreamingRecognizer(model, search, ONE_UTTERANCE)([torch.cat([audio, torch.zeros(8000)])])
    assert_alike(with_tail.hypotheses, longer.hypotheses)


def said_after_each_block(recognizer, audio, size):
    """Seconds of audio and ids of the tokens, after each block and after the end."""
    stream, found, count = recognizer.start(), [], 0
    for block in audio.split(size):
        stream.accept(block)
        recognizer.decode([stream])
        count += len(block)
        found.append((count / 16000, [token.id for token in stream.partial().hypotheses[0].tokens]))
    stream.finish()
    recognizer.decode([stream])
    return [*found, (count / 16000, [token.id for token in stream.segments[0].hypotheses[0].tokens])]


@pytest.mark.parametrize("block_seconds", [0.02, 0.7])
def test_latency_of_a_simulated_arrival(model, block_seconds):
    """A clock that ticks a hundredth of a second at each look: blocks take that long, chunks or not."""
    ticks = iter(range(100000))
    (audio,) = make_audio(24000)
    recognizer = StreamingRecognizer(model, make_search(model, "modified_beam"), ONE_UTTERANCE)
    found = simulate(recognizer, audio, block_seconds, lambda: next(ticks) / 100)
    tokens = recognizer([audio])[0][0].hypotheses[0].tokens
    assert [emission.token.id for emission in found.emissions] == [token.id for token in tokens]
    blocks = -(-24000 // round(block_seconds * 16000)) + 1
    history = said_after_each_block(recognizer, audio, round(block_seconds * 16000))
    for place, emission in enumerate(found.emissions):
        since = [ids[: place + 1] == history[-1][1][: place + 1] for _, ids in history]
        # The last time that it was otherwise, and the block after that.
        changed = max((block for block, same in enumerate(since) if not same), default=-1)
        assert emission.heard == pytest.approx(history[changed + 1][0])
    assert found.audio_seconds == 1.5 and found.compute_seconds == pytest.approx(blocks / 100)
    for emission, token in zip(found.emissions, tokens, strict=True):
        assert emission.token.start == pytest.approx(token.start * 0.04)
        assert emission.shown - emission.heard >= 0.0099
    summary = latency([found, Simulation([], [], 1.5, 0.0)])
    delays = [emission.shown - emission.token.start for emission in found.emissions]
    assert summary.mean == pytest.approx(sum(delays) / len(delays)) and summary.greatest == max(delays)
    assert summary.algorithmic < summary.mean and summary.real_time_factor == pytest.approx(blocks / 300)
    assert latency([Simulation([], [], 1.5, 0.1)]) is None


def test_what_cannot_be_streamed(model):
    greedy = make_search(model, "greedy")
    with pytest.raises(UserError, match="speech.frontend.normalize: found true, expected false"):
        StreamingRecognizer(make_model(normalize=True), greedy, ONE_UTTERANCE)
    with pytest.raises(UserError, match="speech.encoder.name: found 'conformer', expected 'zipformer'"):
        StreamingRecognizer(make_model(encoder=ConformerConfig(dim=16, num_layers=1)), greedy, ONE_UTTERANCE)
    with pytest.raises(UserError, match="causal: found false, expected true"):
        StreamingRecognizer(make_model(encoder=make_config()), greedy, ONE_UTTERANCE)
    with pytest.raises(
        UserError, match="search: found 'ctc_beam', expected ctc_greedy, greedy or modified_beam"
    ):
        StreamingRecognizer(model, make_search(model, "ctc_beam"), ONE_UTTERANCE)
    with pytest.raises(ValueError, match="tail_seconds must not be negative, got -1"):
        StreamingConfig(tail_seconds=-1)

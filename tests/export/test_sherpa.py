"""Exported recognisers in onnxruntime and in sherpa-onnx, beside the models they were made of."""

import jiwer
import pytest
import torch

from tests.models.small_zipformer import make_config
from toolkit.data.synthetic import synthetic_cuts
from toolkit.decode.ctc import CtcGreedy
from toolkit.decode.endpoint import EndpointConfig
from toolkit.decode.greedy import Greedy, GreedyConfig
from toolkit.decode.streaming import StreamingConfig, StreamingRecognizer
from toolkit.export.onnx import load
from toolkit.export.sherpa import networks, write_sherpa
from toolkit.export.sherpa_run import SherpaRecognizer
from toolkit.models.asr import AsrModel, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.branchformer import EBranchformerConfig
from toolkit.models.conformer import ConformerConfig
from toolkit.models.frontend import FbankFrontendConfig
from toolkit.models.predictors import StatelessConfig
from toolkit.models.transducer import TransducerConfig
from toolkit.models.transformer import TransformerConfig
from toolkit.models.waveform import WaveformFrontendConfig

TOKENS = ["<blk>", "<unk>", "▁", *"abcdefghijklm"]
SMALL = {"dim": 32, "num_layers": 2, "num_heads": 2}
HUBERT = TransformerConfig(**SMALL, feed_forward_dim=64, position_groups=4)
WAVLM = TransformerConfig(
    **SMALL, feed_forward_dim=64, position_kernel=16, position_groups=4, bias_buckets=32
)
# Channels of the wider stack stand in the output beside those of the last.
STACKS = {
    "downsampling": [1, 2],
    "num_layers": [1],
    "dims": [24, 16],
    "unmasked_dims": [16],
    "kernel_sizes": [5],
}
NETWORKS = {
    "zipformer": (FbankFrontendConfig(), make_config(**STACKS)),
    "streaming": (FbankFrontendConfig(normalize=False), make_config(**STACKS, causal=True)),
    "stacked": (
        FbankFrontendConfig(normalize=False),
        make_config(**STACKS, causal=True, embed="stack", output_downsampling=1),
    ),
    "whole": (
        FbankFrontendConfig(normalize=False),
        make_config(**STACKS, causal=True, embed="stack", output_downsampling=1, chunk_size=-1),
    ),
    "conformer": (FbankFrontendConfig(normalize=False), ConformerConfig(**SMALL, feed_forward_dim=64)),
    "e_branchformer": (FbankFrontendConfig(), EBranchformerConfig(**SMALL, gating_dim=64)),
    "hubert": (WaveformFrontendConfig(dims=[16] * 7), HUBERT),
    "wavlm": (WaveformFrontendConfig(dims=[16] * 7, norm="layer", bias=True), WAVLM),
}
WITH_TRANSDUCER = ("zipformer", "streaming", "stacked", "whole", "conformer")
STREAMS = ("streaming", "stacked")
HEADS = [
    *((name, head) for name in WITH_TRANSDUCER for head in ("ctc", "transducer")),
    *((name, "ctc") for name in NETWORKS if name not in WITH_TRANSDUCER),
]


def make_model(frontend, encoder, predictor=None, ctc=1.0, transducer=1.0):
    """A model that says something else every few frames: its heads are fitted to what its encoder gives."""
    torch.manual_seed(4)
    predictor = predictor or StatelessConfig(dim=16)
    heads = (
        CtcConfig(scale=ctc),
        TransducerConfig(scale=transducer, predictor=predictor, joiner_dim=24),
        AttentionConfig(),
    )
    model = AsrModel(SpeechEncoder(SpeechConfig(frontend, encoder)), len(TOKENS), *heads).eval()
    with torch.no_grad():
        if encoder.name == "zipformer":
            for parameter in model.speech.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        samples = torch.from_numpy(AUDIO[0])[None]
        frames = model.speech(samples, torch.tensor([samples.shape[1]])).frames[0]
        if model.ctc is not None:
            fit(model.ctc[1], frames, 2.0)
            say(model.ctc[1], 2.0)
        if model.transducer is not None:
            joiner = model.transducer.joiner
            fit(joiner.encoder_proj, frames, 1.0)
            joiner.output.weight.mul_(6.0)
            say(joiner.output, 3.0)
    return model


def fit(layer, frames, size):
    """Weights under which frames give numbers of mean 0 and about that size."""
    layer.weight.copy_(size * torch.randn_like(layer.weight) / frames.std(0) / frames.shape[1] ** 0.5)
    layer.bias.copy_(-layer.weight @ frames.mean(0))


def say(layer, blank):
    """Some blanks, and never <unk>, which sherpa-onnx takes for a blank."""
    layer.bias[0] += blank
    layer.bias[1] -= 1000.0


def load_audio():
    return [cut.load_audio()[0] for cut in synthetic_cuts(3)]


AUDIO = load_audio()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Model and folder of each name, made when they are asked for."""
    made = {}

    def get(name):
        if name not in made:
            model = make_model(*NETWORKS[name], transducer=float((name, "transducer") in HEADS))
            folder = tmp_path_factory.mktemp("sherpa") / name
            write_sherpa(folder, model, TOKENS)
            made[name] = model, folder
        return made[name]

    return get


def symbols(hypotheses):
    """The tokens of the best hypothesis as sherpa-onnx shows them."""
    return [TOKENS[token.id].replace("▁", " ") for token in hypotheses[0].tokens]


def search_of(model, head):
    # One symbol a frame at most, as sherpa-onnx has it.
    config, kind = (CtcGreedy.Config(), CtcGreedy) if head == "ctc" else (GreedyConfig(max_symbols=1), Greedy)
    return kind(config, model, None, "cpu")


@torch.no_grad()
def recognize(model, head, samples):
    frames, lengths = model.speech(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[:2]
    return symbols(search_of(model, head)(frames, lengths)[0])


def recognize_stream(model, head, samples):
    """What is recognised from whole chunks alone."""
    config = StreamingConfig(endpoint=EndpointConfig(enabled=False))
    recognizer = StreamingRecognizer(model, search_of(model, head), config)
    stream = recognizer.start()
    stream.accept(torch.from_numpy(samples))
    recognizer.decode([stream])
    return symbols(stream.partial().hypotheses)


@pytest.mark.parametrize("name,head", HEADS, ids=str)
def test_same_tokens_as_the_toolkit(exported, name, head):
    model, folder = exported(name)
    recognizer = SherpaRecognizer(folder, head)
    assert recognizer.streaming == (name in STREAMS)
    for samples in AUDIO:
        find = recognize_stream if recognizer.streaming else recognize
        expected = find(model, head, recognizer.with_silence(samples))
        assert len(set(expected)) > 2 and len(expected) > 5
        assert recognizer(samples) == expected


@pytest.mark.parametrize(
    "name,head", [pair for pair in HEADS if pair[0] in ("zipformer", "conformer")], ids=str
)
def test_utterances_of_a_batch(exported, name, head):
    """sherpa-onnx pads features with the logarithm of 1e-10."""
    model, folder = exported(name)
    recognizer = SherpaRecognizer(folder, head).recognizer
    streams = [recognizer.create_stream() for _ in AUDIO]
    for stream, samples in zip(streams, AUDIO, strict=True):
        stream.accept_waveform(16000, samples)
    recognizer.decode_streams(streams)
    expected = [recognize(model, head, samples) for samples in AUDIO]
    assert [list(stream.result.tokens) for stream in streams] == expected
    assert streams[0].result.text.split() == "".join(expected[0]).split()


@pytest.mark.parametrize("name", ["zipformer", "whole", "conformer", "e_branchformer"])
@pytest.mark.parametrize("lengths", [(9,), (2,), (100, 37, 12, 64), (333,)], ids=str)
def test_same_numbers_for_any_batch(exported, name, lengths):
    model, folder = exported(name)
    features = torch.randn(len(lengths), max(lengths), 80) * 4 - 8
    module = next(networks(model)).module
    found, frames = load(folder / "model.onnx")([features, torch.tensor(lengths)])
    with torch.no_grad():
        expected, expected_frames = module(features, torch.tensor(lengths))
    assert frames.tolist() == expected_frames.tolist()
    assert frames.tolist() == model.speech.encoder.output_lengths(torch.tensor(lengths)).tolist()
    for row, count in enumerate(frames.tolist()):
        assert count > 0
        torch.testing.assert_close(found[row, :count], expected[row, :count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "window"), [("streaming", 29), ("stacked", 32)])
def test_chunk_after_chunk(exported, name, window):
    """States go round: the fourth chunk is still the same."""
    model, folder = exported(name)
    run = load(folder / "model.onnx")
    file = next(networks(model))
    states = [torch.zeros_like(state) for state in file.module.example(2)[1:]]
    expected_states = states
    for _ in range(4):
        features = torch.randn(2, window, 80) * 4 - 8
        found, *states = run([features, *states])
        with torch.no_grad():
            expected, *expected_states = file.module(features, *expected_states)
        assert found.shape == (2, len(expected[0]), len(TOKENS)) and len(expected[0]) >= 4
        for ours, theirs in zip([expected, *expected_states], [found, *states], strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert states[-1].tolist() == [32, 32]


@pytest.mark.parametrize(
    "name,head", [("conformer", "ctc"), ("conformer", "transducer"), ("streaming", "ctc")]
)
def test_weights_of_eight_bits(exported, name, head):
    model, folder = exported(name)
    file = "model" if head == "ctc" else "encoder"
    sizes = [(folder / f"{file}{kind}.onnx").stat().st_size for kind in (".int8", "")]
    assert sizes[0] < 0.9 * sizes[1]
    recognizers = [SherpaRecognizer(folder, head, int8) for int8 in (False, True)]
    found = [[recognizer(samples) for samples in AUDIO] for recognizer in recognizers]
    references, hypotheses = (
        [" ".join(tokens).replace("   ", " _ ") for tokens in recognized] for recognized in found
    )
    rate = jiwer.wer(references, hypotheses)
    print(f"{name} {head}: {rate:.0%} of the tokens differ")
    assert rate < 0.5

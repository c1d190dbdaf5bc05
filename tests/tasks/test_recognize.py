"""A recogniser applied to recordings: the same text whatever is computed together; times of words."""

import numpy as np
import pytest
import torch

from toolkit.config import build
from toolkit.data.codecs import BadAudio
from toolkit.data.recordings import Recording
from toolkit.data.synthetic import synthetic_cuts
from toolkit.decode.ctc import align, greedy
from toolkit.decode.hypothesis import Hypothesis, Token, Word, in_seconds
from toolkit.errors import UserError
from toolkit.models.output import EncoderOutput
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.load import load_model, save_model
from toolkit.tasks.recognize import Recognizer, WindowConfig, join_words
from toolkit.tasks.ssl import SslConfig, SslTask

SPEECH = {"encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}}


@pytest.fixture(scope="module")
def cuts():
    return list(synthetic_cuts(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asr")
    task = AsrTask(build(AsrConfig, {"data": {"train": "synthetic:5"}, "speech": SPEECH}, "test"), folder, 0)
    task.prepare()
    torch.manual_seed(0)
    model = task.build_model()
    # So that an untrained model says many different things.
    torch.nn.init.normal_(model.ctc[1].weight, std=2.0)
    save_model(folder, model, task.config)
    return folder


def recording(cut):
    samples = cut.load_audio()[0]
    return Recording(cut.id, f"{cut.id}.flac", 0.0, lambda: iter(np.array_split(samples, 3)))


def recognizer_of(folder, seconds=60.0, overlap=4.0, batch_seconds=5.0):
    return Recognizer(folder, "cpu", WindowConfig(seconds, min(overlap, seconds / 2)), batch_seconds)


def recognize(folder, cuts, **settings):
    skipped = []
    recognizer = recognizer_of(folder, **settings)
    found = list(recognizer.recognize(map(recording, cuts), recognizer.searches(None), skipped))
    return [(one.id, one.readings["ctc_greedy"][0]) for one in found], skipped


def aligned(folder, cuts, texts, **settings):
    skipped = []
    found = list(recognizer_of(folder, **settings).align(map(recording, cuts), texts, skipped))
    return [(one.id, one.readings["align"][0]) for one in found], skipped


def log_probs(folder, cut):
    samples = torch.from_numpy(cut.load_audio())
    with torch.no_grad():
        model = load_model(folder)
        output = model.speech(samples, torch.tensor([samples.shape[1]]))
        return model.ctc_log_probs(output.frames)


def test_text_and_times_are_those_of_each_recording_alone(folder, cuts):
    found, skipped = recognize(folder, cuts)
    assert skipped == [] and [name for name, _ in found] == [cut.id for cut in cuts]
    tokenizer = recognizer_of(folder).tokenizer
    for (_, reading), cut in zip(found, cuts, strict=True):
        scores = log_probs(folder, cut)
        tokens = in_seconds(greedy(scores, torch.tensor([scores.shape[1]]))[0][0].tokens, 0.04)
        assert reading.text == tokenizer.decode([token.id for token in tokens]) != ""
        assert [(w.start, w.end) for w in reading.tokens] == [(t.start, t.end) for t in tokens]
        assert " ".join(word.text for word in reading.words) == reading.text
        assert all(0 <= word.start < word.end <= cut.duration + 0.04 for word in reading.words)
    for batch_seconds in (0.1, 1000.0):
        again, _ = recognize(folder, cuts, batch_seconds=batch_seconds)
        assert [reading.text for _, reading in again] == [reading.text for _, reading in found]


def test_alignment_gives_the_known_words(folder, cuts):
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    found, skipped = aligned(folder, cuts, texts)
    assert skipped == [] and len(found) == len(cuts)
    tokenizer = recognizer_of(folder).tokenizer
    for (name, reading), cut in zip(found, cuts, strict=True):
        assert reading.text == texts[name]
        assert [word.text for word in reading.words] == texts[name].split()
        tokens = in_seconds(align(log_probs(folder, cut)[0], tokenizer.encode(texts[name])), 0.04)
        assert [(w.start, w.end) for w in reading.tokens] == [(t.start, t.end) for t in tokens]
        times = [time for word in reading.words for time in (word.start, word.end)]
        assert times == sorted(times)


def test_what_cannot_be_aligned_is_listed(folder, cuts):
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    texts[cuts[0].id] = "far too much text for so short a recording " * 9
    texts.pop(cuts[1].id)
    texts[cuts[2].id] = ""
    found, skipped = aligned(folder, cuts, texts)
    assert [name for name, _ in found] == [cut.id for cut in cuts[3:]]
    assert [row["id"] for row in skipped] == [cuts[1].id, cuts[2].id, cuts[0].id]
    assert [row["reason"].partition(":")[0] for row in skipped] == ["no transcript"] * 2 + ["does not fit"]
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    shortest = min(cut.duration for cut in cuts)
    found, skipped = aligned(folder, cuts, texts, seconds=shortest)
    assert [name for name, _ in found] == [cut.id for cut in cuts if cut.duration == shortest]
    assert all(row["reason"].startswith("too long: over") for row in skipped) and len(skipped) == 4


class Loudness:
    """An encoder whose frames are 40 ms of samples."""

    def __call__(self, waveforms, lengths):
        waveforms = torch.nn.functional.pad(waveforms, (0, -waveforms.shape[1] % 640))
        return EncoderOutput(waveforms.unfold(1, 640, 640), (lengths + 639) // 640, [])


def loud_stretches(frames, lengths):
    """A search that finds a word wherever it is loud, called as loud as it is."""
    found = []
    for row, length in zip(frames.amax(dim=2), lengths, strict=True):
        levels, counts = torch.unique_consecutive((1000 * row[:length]).round().int(), return_counts=True)
        ends = counts.cumsum(0)
        rows = zip(levels.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
        words = [Word(str(level), start, end, 0.0) for level, start, end in rows if level]
        found.append([Hypothesis([Token(3, *word[1:]) for word in words], 0.0, words)])
    return found


@pytest.mark.parametrize("seconds", [5.0, 7.3, 20.0, 100.0])
def test_long_recordings_give_every_word_once(folder, cuts, monkeypatch, seconds):
    pieces = [(0.0, 7680)]
    for level in range(1, 60):
        pieces += [(level / 1000, 640 * (3 + level % 5)), (0.0, 640 * (2 + level % 7))]
    long = np.concatenate([np.full(count, level, np.float32) for level, count in pieces])
    recordings = [
        Recording("long", "long.flac", 0.0, lambda: iter(np.array_split(long, 7))),
        Recording("short", "short.flac", 0.0, lambda: iter([long[:32000]])),
    ]
    # Whole frames of windows and overlap, as it is the joining that is looked at.
    recognizer = recognizer_of(folder, seconds=0.04 * round(seconds / 0.04), overlap=2.4)
    monkeypatch.setattr(recognizer.model, "speech", torch.nn.Identity())
    monkeypatch.setattr(torch.nn.Identity, "forward", Loudness().__call__)
    skipped = []
    long_one, short_one = recognizer.recognize(recordings, {"loud": loud_stretches}, skipped)
    (reading,) = long_one.readings["loud"]
    expected = loud_stretches(Loudness()(torch.from_numpy(long)[None], torch.tensor([len(long)]))[0], [2000])
    ((whole,),) = expected
    assert skipped == [] and reading.text == " ".join(str(level) for level in range(1, 60))
    for own, word in zip(reading.words, whole.words, strict=True):
        assert (own.start, own.end) == pytest.approx((0.04 * word.start, 0.04 * word.end))
    assert len(reading.tokens) == len(reading.words) and short_one.id == "short"


def test_silence_has_no_words(folder, cuts, monkeypatch):
    recognizer = recognizer_of(folder)
    silence = Recording("silence", "silence.wav", 0.0, lambda: iter([np.zeros(32000, np.float32)]))
    with torch.no_grad():
        recognizer.model.ctc[1].weight.zero_()
        recognizer.model.ctc[1].bias.zero_()[0] = 5.0
    skipped = []
    (found,) = recognizer.recognize([silence], recognizer.searches("ctc_beam"), skipped)
    (reading, *_) = found.readings["ctc_beam"]
    assert (reading.text, reading.words, reading.tokens, skipped) == ("", [], [], [])


def test_recordings_that_cannot_be_read(folder, cuts):
    def broken(seconds):
        yield np.zeros(round(16000 * seconds), np.float32)
        raise BadAudio("broken.wav", "truncated: 100 samples decoded")

    recordings = [
        Recording("broken", "broken.wav", 0.0, lambda: broken(0.1)),
        recording(cuts[0]),
        Recording("late", "late.wav", 0.0, lambda: broken(20.0)),
        Recording("empty", "empty.wav", 0.0, lambda: iter([])),
        recording(cuts[1]),
    ]
    skipped = []
    recognizer = recognizer_of(folder, seconds=5.0)
    found = list(recognizer.recognize(recordings, recognizer.searches(None), skipped))
    assert [one.id for one in found] == [cuts[0].id, cuts[1].id]
    assert [row["id"] for row in skipped] == ["broken", "late", "empty"]
    assert skipped[1]["reason"] == "truncated: 100 samples decoded"
    assert skipped[2]["reason"] == "too short: 0 samples, limit 0.1 s"


@pytest.mark.parametrize(("seconds", "overlap"), [(0.1, 0.0), (10.0, 6.0), (10.0, -1.0)])
def test_windows_that_cannot_be(seconds, overlap):
    with pytest.raises(UserError, match="window: found"):
        WindowConfig(seconds, overlap)


def test_a_model_of_another_task(tmp_path):
    task = SslTask(build(SslConfig, {"speech": SPEECH}, "test"), tmp_path, seed=0)
    save_model(tmp_path, task.build_model(), task.config)
    with pytest.raises(UserError, match="found a model of the task 'ssl', expected 'asr'"):
        recognizer_of(tmp_path)


def words(*parts):
    return [Word(text, float(i), i + 1.0, -float(i)) for i, text in enumerate(parts)]


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ([], []),
        (["▁"], []),
        (["a", "b"], [("ab", 0, 2)]),
        (["▁", "a", "▁", "▁", "b", "▁"], [("a", 1, 2), ("b", 4, 5)]),
        (["▁the", "▁ca", "t"], [("the", 0, 1), ("cat", 1, 3)]),
        (["ca", "t", "▁", "s", "at"], [("cat", 0, 2), ("sat", 3, 5)]),
        (["▁a", "<unk>", "b"], [("ab", 0, 3)]),
        (["<unk>", "▁", "<unk>"], []),
    ],
)
def test_symbols_are_joined_to_words(symbols, expected):
    found = join_words(words(*symbols))
    assert [(word.text, word.start, word.end) for word in found] == expected


def test_a_words_score_is_the_mean_of_its_symbols():
    (word,) = join_words(words("a", "b", "c"))
    assert word.score == pytest.approx(-1)

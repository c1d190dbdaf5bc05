"""A recogniser applied to recordings: the same text whatever is computed together; times of words."""

import math

import numpy as np
import pytest
import torch

from toolkit.config import build
from toolkit.data.codecs import BadAudio
from toolkit.data.recordings import Recording
from toolkit.data.synthetic import synthetic_cuts
from toolkit.decode.ctc import align, greedy
from toolkit.decode.hypothesis import Word, in_seconds
from toolkit.errors import UserError
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.load import load_model, save_model
from toolkit.tasks.recognize import Recognizer, ctm_line, join_words
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


def recognize(folder, cuts, texts=None, max_seconds=60.0, batch_seconds=5.0):
    skipped = []
    recognizer = Recognizer(folder, "cpu", max_seconds, batch_seconds)
    return list(recognizer.recognize(map(recording, cuts), texts, skipped)), skipped


def log_probs(folder, cut):
    samples = torch.from_numpy(cut.load_audio())
    with torch.no_grad():
        return load_model(folder)(samples, torch.tensor([samples.shape[1]])).log_probs


def test_text_and_times_are_those_of_each_recording_alone(folder, cuts):
    found, skipped = recognize(folder, cuts)
    assert skipped == [] and [hypothesis.id for hypothesis in found] == [cut.id for cut in cuts]
    recognizer = Recognizer(folder, "auto", 60.0, 5.0)
    for hypothesis, cut in zip(found, cuts, strict=True):
        scores = log_probs(folder, cut)
        tokens = in_seconds(greedy(scores, torch.tensor([scores.shape[1]]))[0][0].tokens, 0.04)
        assert hypothesis.text == recognizer.tokenizer.decode([token.id for token in tokens]) != ""
        assert [(w.start, w.end) for w in hypothesis.tokens] == [(t.start, t.end) for t in tokens]
        assert " ".join(word.text for word in hypothesis.words) == hypothesis.text
        assert all(0 <= word.start < word.end <= cut.duration + 0.04 for word in hypothesis.words)
    for batch_seconds in (0.1, 1000.0):
        again, _ = recognize(folder, cuts, batch_seconds=batch_seconds)
        assert [h.text for h in again] == [h.text for h in found]


def test_alignment_gives_the_known_words(folder, cuts):
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    found, skipped = recognize(folder, cuts, texts)
    assert skipped == []
    for hypothesis, cut in zip(found, cuts, strict=True):
        assert hypothesis.text == texts[cut.id]
        assert [word.text for word in hypothesis.words] == texts[cut.id].split()
        recognizer = Recognizer(folder, "cpu", 60.0, 5.0)
        ids = recognizer.tokenizer.encode(texts[cut.id])
        tokens = in_seconds(align(log_probs(folder, cut)[0], ids), 0.04)
        assert [(w.start, w.end) for w in hypothesis.tokens] == [(t.start, t.end) for t in tokens]
        times = [time for word in hypothesis.words for time in (word.start, word.end)]
        assert times == sorted(times)


def test_what_cannot_be_used_is_listed(folder, cuts):
    texts = {cut.id: cut.supervisions[0].text for cut in cuts}
    texts[cuts[0].id] = "far too much text for so short a recording " * 9
    texts.pop(cuts[1].id)
    texts[cuts[2].id] = ""
    found, skipped = recognize(folder, cuts, texts)
    assert [h.id for h in found] == [cut.id for cut in cuts[3:]]
    assert [row["id"] for row in skipped] == [cuts[1].id, cuts[2].id, cuts[0].id]
    assert [row["reason"].partition(":")[0] for row in skipped] == ["no transcript"] * 2 + ["does not fit"]
    shortest = min(cut.duration for cut in cuts)
    found, skipped = recognize(folder, cuts, max_seconds=shortest)
    assert [h.id for h in found] == [cut.id for cut in cuts if cut.duration == shortest]
    assert all(row["reason"].startswith("too long: over") for row in skipped) and len(skipped) == 4


def test_recordings_that_cannot_be_read(folder, cuts):
    def broken():
        yield np.zeros(100, np.float32)
        raise BadAudio("broken.wav", "truncated: 100 samples decoded")

    recordings = [Recording("broken", "broken.wav", 0.0, broken), recording(cuts[0])]
    skipped = []
    found = list(Recognizer(folder, "cpu", 60.0, 5.0).recognize(recordings, None, skipped))
    assert [h.id for h in found] == [cuts[0].id]
    assert skipped == [{"id": "broken", "path": "broken.wav", "reason": "truncated: 100 samples decoded"}]


def test_a_model_of_another_task(tmp_path):
    task = SslTask(build(SslConfig, {"speech": SPEECH}, "test"), tmp_path, seed=0)
    save_model(tmp_path, task.build_model(), task.config)
    with pytest.raises(UserError, match="found a model of the task 'ssl', expected 'asr'"):
        Recognizer(tmp_path, "cpu", 60.0, 5.0)


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
    assert ctm_line("rec", word) == f"rec 1 0.000 3.000 abc {math.exp(-1):.4f}\n"

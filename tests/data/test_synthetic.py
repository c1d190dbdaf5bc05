"""The made-up corpus: the same every time, in memory and on disk, with labels in step."""

import numpy as np
import pytest

from toolkit.data.manifests import open_cuts
from toolkit.data.synthetic import FRAME_SHIFT, LETTERS, WORDS, synthetic_cuts


def test_the_corpus_is_the_same_in_memory_and_on_disk(tmp_path):
    memory, disk = list(synthetic_cuts(3)), list(synthetic_cuts(3, folder=tmp_path))
    reread = list(open_cuts(tmp_path / "cuts.jsonl.gz"))
    for a, b, c in zip(memory, disk, reread, strict=True):
        assert a.id == b.id == c.id and a.supervisions[0].text == c.supervisions[0].text
        for other in (b, c):
            np.testing.assert_array_equal(a.load_audio(), other.load_audio())
            np.testing.assert_array_equal(a.load_labels(), other.load_labels())
    assert not np.array_equal(memory[0].load_audio(), next(iter(synthetic_cuts(1, seed=1))).load_audio())


def test_labels_spell_the_text_and_are_in_step_with_the_sound():
    for cut in synthetic_cuts(4):
        labels, samples = cut.load_labels(), cut.load_audio()[0]
        assert len(labels) * FRAME_SHIFT == pytest.approx(cut.duration) and 1 <= cut.duration <= 4
        assert set(cut.supervisions[0].text.split()) <= set(WORDS)
        runs = [label for label, before in zip(labels, [-1, *labels], strict=False) if label != before]
        spelled = "".join(" " if label == 0 else LETTERS[label - 1] for label in runs).strip()
        # Equal neighbours are one run of labels.
        text = cut.supervisions[0].text
        assert spelled == "".join(c for c, before in zip(text, " " + text, strict=False) if c != before)
        levels = np.abs(samples.reshape(len(labels), -1)).mean(1)
        middle = np.array([labels[i - 1] == labels[i] == labels[i + 1] for i in range(1, len(labels) - 1)])
        silent, voiced = (levels[1:-1][middle & ((labels[1:-1] > 0) == kind)] for kind in (False, True))
        assert silent.max() < voiced.min()


def test_speakers_take_turns():
    assert [cut.supervisions[0].speaker for cut in synthetic_cuts(5, num_speakers=2)] == [
        f"speaker{index % 2:02d}" for index in range(5)
    ]
    with pytest.raises(ValueError, match="must be positive, got 0 and 4"):
        synthetic_cuts(0)

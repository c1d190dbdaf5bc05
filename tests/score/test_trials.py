"""Trial lists and scores of speaker verification, RTTM and UEM."""

from pathlib import Path

import numpy as np
import pytest

from toolkit.score import ScoreError
from toolkit.score.formats import Turn, read_rttm, read_uem
from toolkit.score.trials import join, read_scores, read_trials, speakers_of

VOXCELEB = "1 a.wav b.wav\n0 a.wav c.wav\n1 b.wav c.wav\n"
KALDI = "a.wav b.wav target\na.wav c.wav nontarget\nb.wav c.wav target\n"
SCORES = "b.wav c.wav -3\na.wav b.wav 1.5\na.wav c.wav 0.25\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [VOXCELEB, KALDI])
def test_both_kinds_of_trials_find_their_scores(tmp_path: Path, text: str) -> None:
    trials, scores = read_trials(write(tmp_path / "t", text)), read_scores(write(tmp_path / "s", SCORES))
    assert trials.labels.tolist() == [True, False, True]
    assert join(trials, scores).tolist() == [1.5, 0.25, -3.0]
    assert scores.labels is None


def test_a_trial_listed_twice_counts_twice(tmp_path: Path) -> None:
    trials = read_trials(write(tmp_path / "t", VOXCELEB + "1 a.wav b.wav\n"))
    assert join(trials, read_scores(write(tmp_path / "s", SCORES))).tolist() == [1.5, 0.25, -3.0, 1.5]


def test_scores_may_have_labels(tmp_path: Path) -> None:
    scores = read_scores(write(tmp_path / "s", "a b 1 target\na c 2 nontarget\n"))
    assert scores.labels is not None and scores.labels.tolist() == [True, False]
    with pytest.raises(ScoreError, match="s:2: found 'another label for a c', expected the label of line 2"):
        join(read_trials(write(tmp_path / "t", "1 a b\n1 a c\n")), scores)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            "a.wav b.wav 1\na.wav c.wav 0\n",
            r"t:3: found the trial 'b.wav c.wav', which has no score .* \(1 such\)",
        ),
        (SCORES + "a.wav d.wav 1\n", r"s:4: found a score for 'a.wav d.wav', which is not in .* \(1 such\)"),
        (SCORES + "a.wav b.wav 2\n", "s:4: found 'a.wav b.wav 2', expected the score of line 2"),
    ],
)
def test_scores_that_do_not_fit_the_trials(tmp_path: Path, scores: str, message: str) -> None:
    trials = read_trials(write(tmp_path / "t", VOXCELEB))
    with pytest.raises(ScoreError, match=message):
        join(trials, read_scores(write(tmp_path / "s", scores)))


def test_scores_of_other_trials_can_be_left_out(tmp_path: Path) -> None:
    scores = read_scores(write(tmp_path / "s", SCORES + "a.wav d.wav 1\n"))
    assert len(join(read_trials(write(tmp_path / "t", VOXCELEB)), scores, extra="ignore")) == 3


def test_speakers_of_trials(tmp_path: Path) -> None:
    trials = read_trials(write(tmp_path / "t", VOXCELEB))
    enroll, test = speakers_of(trials, {"a.wav": "x", "b.wav": "x", "c.wav": "y"})
    np.testing.assert_array_equal(enroll == test, [True, False, False])
    with pytest.raises(ScoreError, match="t:2: found 'c.wav', expected an utterance"):
        speakers_of(trials, {"a.wav": "x", "b.wav": "x"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 a b\n", "t:1: found '2 a b', expected `1|0 enroll test`"),
        ("1 a b\na b target\n", "t:2: .* expected `1|0 enroll test`"),
        ("a b target\na c impostor\n", "t:2: .* expected `enroll test target"),
        ("1 a b\n0 a b\n", "t:2: .* expected the label that 'a b' has on an earlier line"),
        ("1 a\n", "t:1: "),
        ("\n", "t: found no trial"),
    ],
)
def test_malformed_trials_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_trials(write(tmp_path / "t", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "s:1: found 'a b', expected"),
        ("a b 1\na c\n", "s:2: found 'a c', expected `enroll test score`"),
        ("a b 1 target\na c 1 other\n", "s:2: .* expected `enroll test score target"),
        ("a b high\n", "s:1: found 'high', expected a score, a finite number"),
        ("a b nan\n", "found 'nan'"),
        ("\n", "s: found no score"),
    ],
)
def test_malformed_scores_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_scores(write(tmp_path / "s", text))


def test_rttm_and_uem(tmp_path: Path) -> None:
    first = "SPKR-INFO a 1 <NA> <NA> <NA> unknown x <NA>\nSPEAKER a 1 0.5 2 <NA> <NA> x <NA> <NA>\n;; end\n"
    second = "SPEAKER b A 1 0 <NA> <NA> y <NA> <NA>\nSPEAKER a 1 3 1 <NA> <NA> z <NA> <NA>\n"
    paths = [write(tmp_path / "1.rttm", first), write(tmp_path / "2.rttm", second)]
    assert read_rttm(paths) == {"a": [Turn(0.5, 2.5, "x"), Turn(3, 4, "z")], "b": [Turn(1, 1, "y")]}
    uem = write(tmp_path / "u", ";; regions\na 1 0 2.5\na 1 3 4\nb 1 0 9\n")
    assert read_uem(uem) == {"a": [(0, 2.5), (3, 4)], "b": [(0, 9)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPEAKER a 1 0 1 <NA> <NA>\n", "r:1: .* expected `SPEAKER file channel"),
        ("speech a 1 0 1 <NA> <NA> x\n", "r:1: .* expected `SPEAKER file channel"),
        ("SPEAKER a 1 -1 1 <NA> <NA> x <NA> <NA>\n", "r:1: found '-1 1', expected a start and a duration"),
        ("SPEAKER a 1 0 inf <NA> <NA> x <NA> <NA>\n", "r:1: found 'inf'"),
        ("NOSCORE a 1 0 1 <NA> <NA> <NA> <NA>\n", "scored regions as UEM"),
        (
            "SPEAKER a 1 0 1 <NA> <NA> x <NA> <NA>\nSPEAKER a 2 0 1 <NA> <NA> y <NA> <NA>\n",
            "r:2: found 'a channel 2', expected '1' as before",
        ),
    ],
)
def test_malformed_rttm_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_rttm([write(tmp_path / "r", text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 0\n", "u:1: found 'a 1 0', expected `file channel start end`"),
        ("a 1 2 2\n", "expected start < end"),
        ("a 1 3 2\n", "expected 0 <= start <= end"),
        ("", "found no region"),
    ],
)
def test_malformed_uem_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_uem(write(tmp_path / "u", text))

"""Trial lists and scores of speaker verification."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolkit.score.errors import ScoreError
from toolkit.score.formats import malformed, read_lines, to_number

LABELS = {"target": True, "1": True, "nontarget": False, "0": False}


class Trials(NamedTuple):
    """Trials in the order of their file.

    Attributes:
        pairs: "enroll test" of each trial.
        labels: (num_trials,) bool, True for target trials.
        lines: the line of each trial.
    """

    path: Path
    pairs: list[str]
    labels: np.ndarray
    lines: list[int]


class Scores(NamedTuple):
    """Scores in the order of their file; `labels` is None where the file has no fourth column."""

    path: Path
    pairs: list[str]
    scores: np.ndarray
    labels: np.ndarray | None
    lines: list[int]


def read_trials(path: str | Path) -> Trials:
    """Reads trials: VoxCeleb `1 enroll test` (0 for nontarget) or Kaldi `enroll test target|nontarget`.

    The first line decides which of the two the file is.
    """
    path = Path(path)
    pairs: list[str] = []
    labels: list[bool] = []
    lines: list[int] = []
    known: dict[str, bool] = {}
    kaldi: bool | None = None
    for line, text in read_lines(path):
        fields = text.split()
        if kaldi is None:
            kaldi = len(fields) == 3 and fields[2] in ("target", "nontarget")
        label = fields[2 if kaldi else 0] if len(fields) == 3 else ""
        if label not in (("target", "nontarget") if kaldi else ("0", "1")):
            expected = "`enroll test target|nontarget`" if kaldi else "`1|0 enroll test`"
            raise malformed(path, line, text, expected)
        pair = " ".join(fields[:2] if kaldi else fields[1:])
        if known.setdefault(pair, LABELS[label]) != LABELS[label]:
            raise malformed(path, line, text, f"the label that {pair!r} has on an earlier line")
        pairs.append(pair)
        labels.append(LABELS[label])
        lines.append(line)
    if not pairs:
        raise ScoreError(f"{path}: found no trial, expected at least one")
    return Trials(path, pairs, np.array(labels), lines)


def read_scores(path: str | Path) -> Scores:
    """Reads scores: `enroll test score`, with or without a fourth column target|nontarget (or 1|0)."""
    path = Path(path)
    pairs: list[str] = []
    scores: list[float] = []
    labels: list[bool] = []
    lines: list[int] = []
    width = 0
    for line, text in read_lines(path):
        fields = text.split()
        width = width or len(fields)
        if len(fields) != width or width not in (3, 4) or (width == 4 and fields[3] not in LABELS):
            expected = "`enroll test score`" if width == 3 else "`enroll test score target|nontarget`"
            raise malformed(path, line, text, expected)
        pairs.append(f"{fields[0]} {fields[1]}")
        scores.append(to_number(fields[2], path, line, "a score"))
        if width == 4:
            labels.append(LABELS[fields[3]])
        lines.append(line)
    if not pairs:
        raise ScoreError(f"{path}: found no score, expected at least one")
    return Scores(path, pairs, np.array(scores), np.array(labels) if labels else None, lines)


def join(trials: Trials, scores: Scores, extra: str = "error") -> np.ndarray:
    """The score of each trial, (num_trials,).

    Args:
        extra: "error", or "ignore": scores of pairs that are not in the trials are left out.

    Raises:
        ScoreError: a trial without a score, a score without a trial, two scores for a pair, or a label in the
            score file that differs from the trial's.
    """
    place: dict[str, int] = {}
    for number, pair in enumerate(scores.pairs):
        first = place.setdefault(pair, number)
        if scores.scores[first] != scores.scores[number]:
            found = f"{pair} {scores.scores[number]:g}"
            raise malformed(
                scores.path, scores.lines[number], found, f"the score of line {scores.lines[first]}"
            )
    rows = np.array([place.get(pair, -1) for pair in trials.pairs])
    if np.any(rows < 0):
        number = int(np.argmax(rows < 0))
        raise ScoreError(
            f"{trials.path}:{trials.lines[number]}: found the trial {trials.pairs[number]!r}, "
            f"which has no score in {scores.path} ({np.count_nonzero(rows < 0)} such)"
        )
    wanted = set(trials.pairs)
    unknown = [number for pair, number in place.items() if pair not in wanted]
    if unknown and extra == "error":
        raise ScoreError(
            f"{scores.path}:{scores.lines[unknown[0]]}: found a score for {scores.pairs[unknown[0]]!r}, "
            f"which is not in {trials.path} ({len(unknown)} such); --extra ignore leaves such scores out"
        )
    if scores.labels is not None and np.any(wrong := scores.labels[rows] != trials.labels):
        number = int(np.argmax(wrong))
        found = scores.pairs[rows[number]]
        expected = f"the label of line {trials.lines[number]} of {trials.path}"
        raise malformed(scores.path, scores.lines[rows[number]], f"another label for {found}", expected)
    return scores.scores[rows]


def speakers_of(trials: Trials | Scores, utt2spk: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The speakers of the enroll and the test side of each trial, as numbers, each (num_trials,).

    Raises:
        ScoreError: a trial names an utterance that is not in `utt2spk`.
    """
    numbers: dict[str, int] = {}
    sides = np.empty((2, len(trials.pairs)), dtype=np.int64)
    for trial, pair in enumerate(trials.pairs):
        for side, utterance in enumerate(pair.split(" ")):
            if utterance not in utt2spk:
                expected = "an utterance (or an enrolled model) that utt2spk gives a speaker"
                raise malformed(trials.path, trials.lines[trial], utterance, expected)
            sides[side, trial] = numbers.setdefault(utt2spk[utterance], len(numbers))
    return sides[0], sides[1]

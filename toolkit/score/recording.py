"""Diarization and Jaccard error rates of one recording, computed exactly on the boundaries of the segments.

DER is that of NIST's md-eval (RT-09 evaluation plan); JER that of the second DIHARD challenge (Ryant et al.
2019).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from toolkit.score.formats import Turn

DECIMALS = 9  # of a second; finer differences are rounding errors (0.1 + 0.2 is not 0.3), not boundaries


@dataclass(frozen=True)
class Timeline:
    """A recording cut at every boundary, so that nothing changes within a piece.

    Attributes:
        edges: (num_pieces + 1,) seconds.
        ref_names, hyp_names: the speakers, in the order of the columns.
        ref, hyp: (num_pieces, num_speakers) bool, who speaks.
        scored: (num_pieces,) bool.
        mapping: hypothesis speaker -> reference speaker.
        missed, false_alarms, confused: (num_pieces,) int, the numbers of speakers.
    """

    edges: np.ndarray
    ref_names: list[str]
    hyp_names: list[str]
    ref: np.ndarray
    hyp: np.ndarray
    scored: np.ndarray
    mapping: dict[str, str]
    missed: np.ndarray
    false_alarms: np.ndarray
    confused: np.ndarray

    def lines(self) -> Iterator[str]:
        """Yields a line for each piece with any speaker; `hyp=ref` shows how a speaker is mapped."""
        names = np.array(self.ref_names, dtype=object)
        heard = [f"{name}={self.mapping[name]}" if name in self.mapping else name for name in self.hyp_names]
        hyp_names = np.array(heard, dtype=object)
        for piece in np.flatnonzero(self.ref.any(axis=1) | self.hyp.any(axis=1)):
            start, end = self.edges[piece : piece + 2]
            ref = ",".join(names[self.ref[piece]]) or "-"
            hyp = ",".join(hyp_names[self.hyp[piece]]) or "-"
            counts = f"{self.missed[piece]} {self.false_alarms[piece]} {self.confused[piece]}"
            yield f"{start:.6f} {end:.6f} {ref} {hyp} {int(self.scored[piece])} {counts}"


@dataclass(frozen=True)
class Recording:
    """What one recording adds up to; times are speaker time in seconds (two speakers at once count twice).

    Attributes:
        scored: speaker time of the reference in the scored regions.
        missed, false_alarm, confusion: the three parts of the error.
        speaker_jers: reference speaker -> Jaccard error rate.
        jer: their mean; 1 for a recording in which only the hypothesis has speech, 0 where nobody has.
        ref_speakers, hyp_speakers: how many have speech in the evaluated regions.
    """

    name: str
    scored: float
    missed: float
    false_alarm: float
    confusion: float
    speaker_jers: dict[str, float]
    jer: float
    ref_speakers: int
    hyp_speakers: int
    timeline: Timeline

    @property
    def errors(self) -> float:
        return self.missed + self.false_alarm + self.confusion

    @property
    def der(self) -> float:
        """nan where the reference has no speech to score."""
        return self.errors / self.scored if self.scored else float("nan")


def score_recording(
    name: str,
    ref: Sequence[Turn],
    hyp: Sequence[Turn],
    regions: Sequence[tuple[float, float]],
    collar: float,
    skip_overlap: bool,
) -> Recording:
    """Scores one recording, cut at every boundary: between two of them nothing changes, so sums are exact.

    Args:
        name: of the recording.
        ref, hyp: its turns.
        regions: (start, end) of what is scored, in seconds; they may overlap.
        collar, skip_overlap: as for `toolkit.score.der.score`.
    """
    ref_spans, hyp_spans = (_spans([turn[:2] for turn in turns]) for turns in (ref, hyp))
    region_spans = _spans(regions)
    collars = _spans(ref_spans.reshape(-1, 1) + np.array([-collar, collar]))
    edges = np.unique(np.concatenate([ref_spans, hyp_spans, region_spans, collars]))
    durations = np.diff(edges)
    ref_names, ref_turns = _active(ref_spans, [turn.speaker for turn in ref], edges)
    hyp_names, hyp_turns = _active(hyp_spans, [turn.speaker for turn in hyp], edges)
    ref_active, hyp_active = ref_turns > 0, hyp_turns > 0

    evaluated = _covered(region_spans, edges)
    # Without a collar its spans are empty and cover nothing.
    scored = evaluated & ~_covered(collars, edges)
    if skip_overlap:
        # Turns, not speakers, are counted, as md-eval does.
        scored &= ref_turns.sum(axis=1) < 2
    # Seconds together, (num_ref, num_hyp), where evaluated: md-eval maps without the collar.
    together = (ref_active * (durations * evaluated)[:, None]).T @ hyp_active
    pairs = list(zip(*linear_sum_assignment(together, maximize=True), strict=True))

    num_ref, num_hyp = ref_active.sum(axis=1), hyp_active.sum(axis=1)
    correct = sum(
        (ref_active[:, i] & hyp_active[:, j] for i, j in pairs), np.zeros(len(durations), dtype=int)
    )
    timeline = Timeline(
        edges=edges,
        ref_names=ref_names,
        hyp_names=hyp_names,
        ref=ref_active,
        hyp=hyp_active,
        scored=scored,
        mapping={hyp_names[j]: ref_names[i] for i, j in pairs if together[i, j] > 0},
        missed=np.maximum(num_ref - num_hyp, 0),
        false_alarms=np.maximum(num_hyp - num_ref, 0),
        confused=np.minimum(num_ref, num_hyp) - correct,
    )
    ref_time, hyp_time = ((durations * evaluated) @ active for active in (ref_active, hyp_active))
    jers = _jaccard_errors(together, ref_time, hyp_time)
    seconds = durations * scored
    return Recording(
        name=name,
        scored=float(seconds @ num_ref),
        missed=float(seconds @ timeline.missed),
        false_alarm=float(seconds @ timeline.false_alarms),
        confusion=float(seconds @ timeline.confused),
        speaker_jers={
            ref_names[i]: float(jer) for i, jer in zip(np.flatnonzero(ref_time), jers, strict=True)
        },
        jer=float(np.mean(jers)) if len(jers) else float(hyp_time.any()),
        ref_speakers=int(np.count_nonzero(ref_time)),
        hyp_speakers=int(np.count_nonzero(hyp_time)),
        timeline=timeline,
    )


def _spans(pairs: ArrayLike) -> np.ndarray:
    """(start, end) pairs as an array (num_pairs, 2), free of rounding errors."""
    return np.round(np.asarray(pairs, dtype=np.float64).reshape(-1, 2), DECIMALS)


def _active(spans: np.ndarray, names: Sequence[str], edges: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Who is active when.

    Args:
        spans: (num_spans, 2), whose boundaries are all in `edges`.
        names: (num_spans,), the owner of each.
        edges: (num_edges,), rising.

    Returns:
        The different names, sorted, and how many spans of each are open between neighbouring edges,
        (num_edges - 1, num_names) int.
    """
    columns = sorted(set(names))
    column = [columns.index(name) for name in names]
    change = np.zeros((len(edges), len(columns)), dtype=np.int64)
    np.add.at(change, (np.searchsorted(edges, spans[:, 0]), column), 1)
    np.add.at(change, (np.searchsorted(edges, spans[:, 1]), column), -1)
    return columns, np.cumsum(change, axis=0)[:-1]


def _covered(spans: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whether any span covers the stretch between neighbouring edges, (num_edges - 1,) bool."""
    return _active(spans, [""] * len(spans), edges)[1].any(axis=1)


def _jaccard_errors(together: np.ndarray, ref_time: np.ndarray, hyp_time: np.ndarray) -> np.ndarray:
    """The Jaccard error rate of each reference speaker, under the mapping that makes their sum smallest.

    Speakers who say nothing in the evaluated regions do not exist.

    Args:
        together: (num_ref, num_hyp) seconds in which both speak.
        ref_time, hyp_time: (num_ref,) and (num_hyp,) seconds of speech.
    """
    together = together[np.ix_(ref_time > 0, hyp_time > 0)]
    union = ref_time[ref_time > 0][:, None] + hyp_time[hyp_time > 0] - together
    errors = 1 - together / union
    rows, columns = linear_sum_assignment(errors)
    jers = np.ones(len(together))
    jers[rows] = errors[rows, columns]
    return jers

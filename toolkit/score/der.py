"""Diarization and Jaccard error rates, computed exactly on the boundaries of the segments.

DER is that of NIST's md-eval (RT-09 evaluation plan); JER that of the second DIHARD challenge (Ryant et al.
2019).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from toolkit.score.bootstrap import or_none, ratio_interval
from toolkit.score.errors import ScoreError
from toolkit.score.formats import Regions, Turn

EXTENTS = ("both", "reference")


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


@dataclass(frozen=True)
class DerResult:
    """Figures of a set of recordings; every rate is a fraction.

    Attributes:
        recordings: sorted by name.
        collar, skip_overlap: as scored.
        extent: what was scored: "uem", or as given where there was no UEM.
        replications, seed: of the bootstrap, which draws recordings with replacement.
    """

    recordings: list[Recording]
    collar: float
    skip_overlap: bool
    extent: str
    replications: int
    seed: int

    def total(self, part: str) -> float:
        """The sum over recordings of scored, missed, false_alarm, confusion or errors, in seconds."""
        return float(sum(getattr(recording, part) for recording in self.recordings))

    @property
    def der(self) -> float:
        return self.total("errors") / self.total("scored")

    @property
    def jer(self) -> float:
        """The mean over all reference speakers of all recordings."""
        return float(
            np.mean([jer for recording in self.recordings for jer in recording.speaker_jers.values()])
        )

    @property
    def without_hypothesis(self) -> int:
        """How many recordings have no turn in the hypothesis."""
        return sum(not recording.timeline.hyp_names for recording in self.recordings)

    @cached_property
    def der_interval(self) -> tuple[float, float]:
        """The 95 % interval of the DER over recordings; nan for a single one."""
        if len(self.recordings) == 1:
            return float("nan"), float("nan")
        errors, scored = (
            np.array([getattr(r, part) for r in self.recordings]) for part in ("errors", "scored")
        )
        return ratio_interval(errors, scored, self.replications, self.seed)

    def details(self) -> Iterator[str]:
        """Yields a line a piece: where, who spoke, who was heard, whether it is scored, its errors."""
        yield "recording start end ref hyp scored missed false_alarms confused"
        for recording in self.recordings:
            yield from (f"{recording.name} {line}" for line in recording.timeline.lines())

    def to_dict(self) -> dict[str, Any]:
        """The flat content of `--json`; docs/scoring.md explains the keys."""
        scored = self.total("scored")
        low, high = self.der_interval
        return {
            "metric": "der",
            "der": self.der,
            "der_low": or_none(low),
            "der_high": or_none(high),
            "miss": self.total("missed") / scored,
            "false_alarm": self.total("false_alarm") / scored,
            "confusion": self.total("confusion") / scored,
            "jer": self.jer,
            "scored_time": scored,
            "missed_time": self.total("missed"),
            "false_alarm_time": self.total("false_alarm"),
            "confusion_time": self.total("confusion"),
            "recordings_without_hypothesis": self.without_hypothesis,
            "collar": self.collar,
            "skip_overlap": self.skip_overlap,
            "extent": self.extent,
            "replications": self.replications,
            "seed": self.seed,
            "recordings": [
                {
                    "recording": recording.name,
                    "der": or_none(recording.der),
                    "jer": recording.jer,
                    "scored_time": recording.scored,
                    "missed_time": recording.missed,
                    "false_alarm_time": recording.false_alarm,
                    "confusion_time": recording.confusion,
                    "ref_speakers": recording.ref_speakers,
                    "hyp_speakers": recording.hyp_speakers,
                }
                for recording in self.recordings
            ],
        }


def score(
    ref: Mapping[str, Sequence[Turn]],
    hyp: Mapping[str, Sequence[Turn]],
    uem: Regions | None = None,
    collar: float = 0.0,
    skip_overlap: bool = False,
    extent: str = "both",
    replications: int = 10000,
    seed: int = 0,
) -> DerResult:
    """Scores a diarization.

    Args:
        ref: recording -> turns (start, end, speaker). Turns of one speaker may overlap; they count once.
        hyp: the same for the hypothesis. A recording that it lacks is missed altogether.
        uem: recording -> scored regions. Only recordings that it names are scored.
        collar: seconds before and after every boundary of a reference turn that are not scored (md-eval's
            meaning: 0.25 leaves out 0.5 s). JER has no collar.
        skip_overlap: do not score where two reference turns overlap. JER keeps them.
        extent: what is scored without a UEM: from the first to the last boundary of "both" reference and
            hypothesis (as dscore does), or of the "reference" alone (as md-eval does, which forgives false
            alarms outside it).
        replications: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ScoreError: an impossible option, a recording of the hypothesis that is nowhere else, nothing to
            score.
    """
    if extent not in EXTENTS:
        raise ScoreError(f"found the extent {extent!r}, expected one of {', '.join(EXTENTS)}")
    if not 0 <= collar < np.inf:
        raise ScoreError(f"found the collar {collar:g}, expected at least 0 seconds")
    if uem is None and (unknown := sorted(hyp.keys() - ref.keys())):
        raise ScoreError(
            f"found the recording {unknown[0]!r} ({len(unknown)} such) in the hypothesis, expected only "
            "recordings of the reference (a UEM names others, in which nobody speaks)"
        )
    recordings = []
    for name in sorted(ref if uem is None else uem):
        ref_turns, hyp_turns = ref.get(name, ()), hyp.get(name, ())
        spans = [*ref_turns, *hyp_turns] if extent == "both" else ref_turns
        if uem is not None:
            regions = uem[name]
        else:
            regions = [(min(turn.start for turn in spans), max(turn.end for turn in spans))] if spans else []
        recordings.append(_score_recording(name, ref_turns, hyp_turns, regions, collar, skip_overlap))
    if not any(recording.scored for recording in recordings):
        raise ScoreError(f"found no reference speech to score in {len(recordings)} recordings, expected some")
    kind = "uem" if uem is not None else extent
    return DerResult(recordings, collar, skip_overlap, kind, replications, seed)


def _score_recording(
    name: str,
    ref: Sequence[Turn],
    hyp: Sequence[Turn],
    regions: Sequence[tuple[float, float]],
    collar: float,
    skip_overlap: bool,
) -> Recording:
    """Cuts the recording at every boundary; between two of them nothing changes, so sums are exact."""
    boundaries = [time for turn in ref for time in turn[:2]]
    collars = [(time - collar, time + collar) for time in boundaries] if collar else []
    edges = np.unique(
        [*boundaries, *(t for turn in hyp for t in turn[:2]), *np.ravel(regions), *np.ravel(collars)]
    )
    durations = np.diff(edges)
    ref_names, hyp_names = (sorted({turn.speaker for turn in turns}) for turns in (ref, hyp))
    ref_turns, hyp_turns = _active(ref, ref_names, edges), _active(hyp, hyp_names, edges)
    ref_active, hyp_active = ref_turns > 0, hyp_turns > 0

    evaluated = _covered(regions, edges)
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


def _active(turns: Sequence[Turn], speakers: Sequence[str], edges: np.ndarray) -> np.ndarray:
    """How many turns of each speaker are open between edges, (num_edges - 1, num_speakers) int."""
    column = {speaker: place for place, speaker in enumerate(speakers)}
    columns = [column[turn.speaker] for turn in turns]
    change = np.zeros((len(edges), len(speakers)), dtype=np.int64)
    np.add.at(change, (np.searchsorted(edges, [turn.start for turn in turns]), columns), 1)
    np.add.at(change, (np.searchsorted(edges, [turn.end for turn in turns]), columns), -1)
    return np.cumsum(change, axis=0)[:-1]


def _covered(regions: Sequence[tuple[float, float]], edges: np.ndarray) -> np.ndarray:
    """Whether any region covers the stretch between neighbouring edges, (num_edges - 1,) bool."""
    return _active([Turn(start, end, "") for start, end in regions], [""], edges)[:, 0] > 0


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

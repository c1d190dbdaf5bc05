"""Diarization and Jaccard error rates of a set of recordings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from toolkit.score.bootstrap import or_none, ratio_interval
from toolkit.score.errors import ScoreError
from toolkit.score.formats import Regions, Turn
from toolkit.score.recording import Recording, score_recording

EXTENTS = ("both", "reference")


class NothingToScore(ScoreError):
    """The reference has no speech where it is scored."""


@dataclass(frozen=True)
class DerResult:
    """Figures of a set of recordings; every rate is a fraction.

    Attributes:
        recordings: sorted by name.
        outside_uem: how many recordings of the reference the UEM does not name; they are not scored.
        collar, skip_overlap: as scored.
        extent: what was scored: "uem", or as given where there was no UEM.
        replications, seed: of the bootstrap, which draws recordings with replacement.
    """

    recordings: list[Recording]
    outside_uem: int
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
            "recordings_outside_uem": self.outside_uem,
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
        NothingToScore: the reference has no speech where it is scored.
        ScoreError: an impossible option, or a recording of the hypothesis that is nowhere else.
    """
    if extent not in EXTENTS:
        raise ScoreError(f"found the extent {extent!r}, expected one of {', '.join(EXTENTS)}")
    if not 0 <= collar < np.inf:
        raise ScoreError(f"found the collar {collar:g}, expected at least 0 seconds")
    if unknown := sorted(hyp.keys() - ref.keys() - (uem or {}).keys()):
        raise ScoreError(
            f"found the recording {unknown[0]!r} ({len(unknown)} such) in the hypothesis, expected only "
            "recordings of the reference (a UEM names others, in which nobody speaks)"
        )
    recordings = []
    for name in sorted(ref if uem is None else uem):
        ref_turns, hyp_turns = ref.get(name, ()), hyp.get(name, ())
        regions = uem[name] if uem is not None else _extent(ref_turns, hyp_turns if extent == "both" else ())
        recordings.append(score_recording(name, ref_turns, hyp_turns, regions, collar, skip_overlap))
    if not any(recording.scored for recording in recordings):
        where = "the regions of the UEM" if uem is not None else f"{len(recordings)} recordings"
        raise NothingToScore(f"found no reference speech to score in {where}, expected some")
    outside = 0 if uem is None else len(ref.keys() - uem.keys())
    kind = "uem" if uem is not None else extent
    return DerResult(recordings, outside, collar, skip_overlap, kind, replications, seed)


def _extent(*sides: Sequence[Turn]) -> list[tuple[float, float]]:
    """From the first to the last boundary of all turns."""
    turns = [turn for side in sides for turn in side]
    return [(min(turn.start for turn in turns), max(turn.end for turn in turns))] if turns else []

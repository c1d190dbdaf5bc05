"""Random diarization cases, and the figures that md-eval and dscore give for them.

`der_reference.jsonl` holds those figures, so that every machine can compare with them: md-eval-22.pl and
dscore are not on the package index. It was made with meeteval 0.4.3, a checkout of
https://github.com/nryant/dscore at commit e02f949 (DSCORE), which brings md-eval-22.pl, and

    export PATH=$PATH:DSCORE/scorelib PYTHONPATH=.
    python tests/score/der_cases.py DSCORE > tests/score/der_reference.jsonl
"""

import json
import random
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

NUM_CASES = 200
REFERENCE = Path(__file__).with_name("der_reference.jsonl")

Segments = list[tuple[int, int, str]]  # (start, end, speaker), in milliseconds


@dataclass
class Case:
    """Segments of each recording in milliseconds, and how to score them (the collar in seconds)."""

    ref: dict[str, Segments]
    hyp: dict[str, Segments]
    uem: dict[str, list[tuple[int, int]]] | None
    collar: float
    skip_overlap: bool


def make_case(seed: int) -> Case:
    """A case with overlaps, even of a speaker with himself, empty segments, ties, missing hypotheses.

    Only `Random.random` is used, whose numbers are the same in every version of Python.
    """
    rng = random.Random(seed)

    def below(limit: int) -> int:
        return int(rng.random() * limit)

    collar = (0.0, 0.0, 0.1, 0.25, 0.5)[below(5)]
    skip_overlap = below(3) == 0
    # Where regions are left out, a tie between two mappings would leave the answer open: no coarse grid.
    grid = 1 if collar or skip_overlap else (1, 100, 500)[below(3)]

    def segments(length: int, prefix: str, speakers: int) -> Segments:
        made = []
        for _ in range(1 + below(5 * speakers)):
            start = below(length // grid) * grid
            duration = 0 if below(10) == 0 else (1 + below(6000 // grid)) * grid
            made.append((start, min(length, start + duration), f"{prefix}{below(speakers)}"))
        return made

    def heard(truth: Segments, length: int) -> Segments:
        made = []
        for start, end, speaker in truth:
            if below(8) > 0:
                start = min(max(0, start + (below(601) - 300) // grid * grid), length)
                end = min(max(start, end + (below(601) - 300) // grid * grid), length)
                made.append((start, end, f"h{speaker}" if below(5) else f"h{below(4)}"))
        return made

    ref, hyp, uem = {}, {}, {}
    for name in [f"rec{number}" for number in range(1 + below(3))]:
        length = 20000 + below(40000)
        ref[name] = segments(length, "s", 1 + below(4)) + [(below(5000), 6000 + below(4000), "s0")]
        kind = below(10)
        if kind > 0:
            hyp[name] = segments(length, "x", 1 + below(4)) if kind < 3 else heard(ref[name], length)
        middle = length // 2
        uem[name] = [(below(2000), middle - below(3000)), (middle + below(3000), length - below(2000))]
    return Case(ref, hyp, uem if below(2) else None, collar, skip_overlap)


def md_eval_figures(case: Case, function: Any) -> dict[str, list[float]]:
    """Recording -> scored, missed, false alarm and confused time, by meeteval's md_eval_22 or dscore."""
    from meeteval.io.rttm import RTTM
    from meeteval.io.uem import UEM, UEMLine

    def rttm(side: dict[str, Segments]) -> Any:
        lines = [
            f"SPEAKER {name} 1 {start / 1000:.3f} {(end - start) / 1000:.3f} <NA> <NA> {speaker} <NA> <NA>"
            for name, segments in side.items()
            for start, end, speaker in segments
        ]
        return RTTM.parse("\n".join(lines))

    # meeteval leaves recordings without a hypothesis out; an empty segment keeps them in.
    hyp = {name: case.hyp.get(name) or [(ref[-1][0], ref[-1][0], "nobody")] for name, ref in case.ref.items()}
    uem = None
    if case.uem is not None:
        # Built line by line: UEM.parse refuses a second region of a recording, md-eval does not.
        uem = UEM(
            [
                UEMLine(
                    filename=name, channel="1", begin_time=Decimal(start) / 1000, end_time=Decimal(end) / 1000
                )
                for name, regions in case.uem.items()
                for start, end in regions
            ]
        )
    regions = "nooverlap" if case.skip_overlap else "all"
    figures = function(rttm(case.ref), rttm(hyp), collar=case.collar, regions=regions, uem=uem)
    parts = ("scored_speaker_time", "missed_speaker_time", "falarm_speaker_time", "speaker_error_time")
    return {name: [float(getattr(rate, part)) for part in parts] for name, rate in sorted(figures.items())}


def jaccard_figures(case: Case) -> dict[str, float]:
    """Recording -> JER by dscore; "" -> over all. A frame is a millisecond here: no rounding."""
    from scorelib.metrics import contingency_matrix, jer
    from scorelib.score import turns_to_frames
    from scorelib.turn import Turn, merge_turns, trim_turns
    from scorelib.uem import UEM, gen_uem

    def turns(side: dict[str, Segments]) -> list[Any]:
        return [
            Turn(float(start), float(end), speaker_id=speaker, file_id=name)
            for name, segments in side.items()
            for start, end, speaker in segments
            if end > start  # dscore refuses empty segments
        ]

    ref, hyp = turns(case.ref), turns(case.hyp)
    uem = UEM(case.uem) if case.uem is not None else gen_uem(ref, hyp)
    ref, hyp = (merge_turns(trim_turns(side, uem)) for side in (ref, hyp))
    ref_time, hyp_time, together = {}, {}, {}
    for name, regions in uem.items():
        sides = [
            turns_to_frames([t for t in side if t.file_id == name], regions, step=1.0) for side in (ref, hyp)
        ]
        ref_time[name], hyp_time[name] = (frames.sum(axis=0) for frames in sides)
        together[name] = contingency_matrix(*sides)
    recordings, overall = jer(ref_time, hyp_time, together)
    return {"": overall / 100} | {name: value / 100 for name, value in sorted(recordings.items())}


if __name__ == "__main__":
    from meeteval.der import dscore, md_eval_22

    sys.path.insert(0, sys.argv[1])
    seed = made = 0
    while made < NUM_CASES:
        case = make_case(seed)
        try:
            figures = {"seed": seed, "md_eval": md_eval_figures(case, md_eval_22)}
        except CalledProcessError:
            # md-eval divides by zero where a recording has no speech left to score.
            print(f"case {seed} is left out", file=sys.stderr)
        else:
            print(
                json.dumps(figures | {"dscore": md_eval_figures(case, dscore), "jer": jaccard_figures(case)})
            )
            made += 1
        seed += 1

"""Simulates meetings for diarization, from synthetic voices and from real ones.

Writes cuts_meetings_{train,valid,test}.jsonl.gz, each with ref_meetings_*.rttm and ref_meetings_*.uem. The
custom field `source` says "sim-real" where the voices are real recordings, else "sim-tts". Speakers of
validation and test meetings are in no training meeting; their real voices say test sentences only.
"""

import argparse
import random
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path

from corpus import SPLITS, TEST_SPEAKERS, read_source
from lhotse import CutSet, MonoCut

from toolkit.bin import run
from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.data.simulate import (
    MeetingConfig,
    overlap_share,
    render,
    simulate_meetings,
    split_at_pauses,
    write_rttm,
    write_uem,
)
from toolkit.data.validate import TASKS, validate
from toolkit.errors import UserError
from toolkit.progress import progress

MAX_PER_SPEAKER = 60
"""Utterances of a speaker that are drawn from."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, help="data folder of the recipe")
    for split, default in (("train", 52), ("valid", 7), ("test", 14)):
        result.add_argument(f"--{split}", type=int, default=default, help=f"meetings (default: {default})")
    result.add_argument("--seed", type=int, default=0, help="decides everything (default: 0)")
    result.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    with Pool(args.jobs) as pool:
        voices = {key: list(pieces(cuts, pool, args.seed)) for key, cuts in choose_voices(args.data).items()}
        tasks = list(plan(voices, counts, args.seed, args.data.absolute() / "audio" / "meetings"))
        meetings = list(progress(pool.imap(render_one, tasks), len(tasks), "meetings"))
    for split in SPLITS:
        finish(args.data, split, [cut for cut in meetings if cut.id.startswith(f"{split}-")])


def choose_voices(data: Path) -> dict[tuple[str, str], list[MonoCut]]:
    """Utterances by split and by source, "sim-tts" or "sim-real"."""
    voices: dict[tuple[str, str], list[MonoCut]] = {(split, "sim-tts"): [] for split in SPLITS}
    for cut in open_cuts(data / "cuts_tts.jsonl.gz"):
        voices[cut.custom["split"], "sim-tts"].append(cut)
    for (split, _), cuts in voices.items():
        found = len({cut.supervisions[0].speaker for cut in cuts})
        if found < 2:
            raise UserError(
                f"{data}/cuts_tts.jsonl.gz: found {found} voices for {split}, expected two or more"
            )
    if read_source(data) != "espeak":
        for split in ("train", "test"):
            voices[split, "sim-real"] = [
                cut
                for cut in open_cuts(data / f"cuts_real_{split}.jsonl.gz")
                if (cut.supervisions[0].speaker in TEST_SPEAKERS) == (split == "test")
            ]
    return voices


def pieces(cuts: list[MonoCut], pool: Pool, seed: int) -> Iterator[MonoCut]:
    """Stretches of uninterrupted speech, from a limited number of utterances of each speaker."""
    rng = random.Random(seed)
    chosen, taken = [], {}
    for cut in rng.sample(cuts, len(cuts)):
        speaker = cut.supervisions[0].speaker
        taken[speaker] = taken.get(speaker, 0) + 1
        if taken[speaker] <= MAX_PER_SPEAKER:
            chosen.append(cut)
    for parts in pool.imap(split_at_pauses, chosen, 16):
        yield from (part for part in parts if 0.5 <= part.duration <= 10)


def plan(
    voices: dict[tuple[str, str], list[MonoCut]], counts: dict[str, int], seed: int, folder: Path
) -> Iterator[tuple[CutSet, str, str, Path]]:
    """Meetings to render: the cut, its name, its source and its file. Every fourth or so has real voices."""
    for (split, source), cuts in voices.items():
        num_real = round(counts[split] / 4) if (split, "sim-real") in voices else 0
        number = num_real if source == "sim-real" else counts[split] - num_real
        for index, meeting in enumerate(simulate_meetings(cuts, number, MeetingConfig(), seed)):
            name = f"{split}-{source}-{index:03d}"
            yield meeting, name, source, folder / f"{name}.flac"


def render_one(task: tuple[CutSet, str, str, Path]) -> MonoCut:
    meeting, name, source, path = task
    cut = render(meeting, name, path)
    cut.custom = {"source": source}
    return cut


def finish(data: Path, split: str, cuts: list[MonoCut]) -> None:
    """Checks the meetings of a split and writes everything about them."""
    for cut, reason in validate(cuts, TASKS["diarization"], decode=True):
        if reason is not None:
            raise UserError(f"{cut.id}: {reason}")
    write_rttm(data / f"ref_meetings_{split}.rttm", cuts)
    write_uem(data / f"ref_meetings_{split}.uem", cuts)
    write_cuts(data / f"cuts_meetings_{split}.jsonl.gz", cuts)
    num_real = sum(cut.custom["source"] == "sim-real" for cut in cuts)
    speakers = {item.speaker for cut in cuts for item in cut.supervisions}
    minutes = sum(cut.duration for cut in cuts) / 60
    print(
        f"meetings: {split:5} {len(cuts):3} ({num_real} of real voices), {minutes:.1f} min, "
        f"{len(speakers)} speakers, {overlap_share(cuts):.0%} of the speech overlapped"
    )


if __name__ == "__main__":
    run(main)

"""Chooses the cuts of every task, and the trials of speaker verification.

Writes cuts_pretrain_{train,valid}, cuts_asr_{train,valid,test} (English), cuts_asr_<language>_* (the others),
cuts_asr_tts_train (synthetic English), cuts_speaker_{train,valid} of the speakers that verification learns,
cuts_trials_{valid,test} of others (all .jsonl.gz), and trials_valid.txt (synthetic voices), trials_real.txt and
trials_tts.txt (enroll test target|nontarget). What is tested on is in no training set.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from corpus import LANGUAGES, SPLITS, TEST_SPEAKERS, read_source
from lhotse import MonoCut

from toolkit.bin import run
from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.errors import UserError
from toolkit.files import atomic_write

MIN_TRIAL_SECONDS = 1.5
MAX_PER_SPEAKER = 100
"""Training cuts of one speaker for verification, so that the real speakers do not crowd out the others."""

Splits = dict[str, list[MonoCut]]
Trial = tuple[MonoCut, MonoCut]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, help="data folder of the recipe")
    result.add_argument(
        "--trials", type=int, default=1000, help="trials of either kind and set (default: 1000)"
    )
    result.add_argument("--valid", type=float, default=0.05, help="share of validation cuts (default: 0.05)")
    result.add_argument("--seed", type=int, default=0, help="decides everything (default: 0)")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    remove_old(args.data)
    real = read_real(args.data)
    voices = list(open_cuts(args.data / "cuts_tts.jsonl.gz"))
    tts = split_tts(voices, args.valid, args.seed)
    write_pretraining(args.data, real, tts)
    write_recognition(args.data, real, tts)
    write_verification(args.data, real, tts, args.valid, args.seed)
    write_trials(args.data, real, voices, args.trials, args.seed)


def remove_old(data: Path) -> None:
    """Nothing of an earlier run with other recordings may stay."""
    for pattern in (
        "cuts_pretrain_*.jsonl.gz",
        "cuts_asr_*.jsonl.gz",
        "cuts_speaker_*.jsonl.gz",
        "cuts_trials_*.jsonl.gz",
        "trials_*.txt",
    ):
        for path in data.glob(pattern):
            path.unlink()


def read_real(data: Path) -> Splits:
    """The real cuts; none where there are no recordings."""
    if read_source(data) == "espeak":
        return {split: [] for split in SPLITS}
    return {split: list(open_cuts(data / f"cuts_real_{split}.jsonl.gz")) for split in SPLITS}


def split_tts(cuts: Iterable[MonoCut], valid: float, seed: int) -> Splits:
    """The synthetic cuts: test voices for testing; of the training voices, some sentences for validation."""
    splits: Splits = {split: [] for split in SPLITS}
    for cut in cuts:
        held_out = random.Random(f"{seed}-{cut.supervisions[0].text}").random() < valid
        if cut.custom["split"] == "test":
            splits["test"].append(cut)
        elif cut.custom["split"] == "train":
            splits["valid" if held_out else "train"].append(cut)
    return splits


def write_pretraining(data: Path, real: Splits, tts: Splits) -> None:
    for split in ("train", "valid"):
        write(data / f"cuts_pretrain_{split}.jsonl.gz", real[split] + tts[split])


def write_recognition(data: Path, real: Splits, tts: Splits) -> None:
    """Transcribed speech by language; English is synthetic where there are no recordings."""
    write(data / "cuts_asr_tts_train.jsonl.gz", transcribed(tts["train"], "en"))
    for language in LANGUAGES if real["train"] else ():
        for split in SPLITS:
            name = f"cuts_asr_{split}" if language == "en" else f"cuts_asr_{language}_{split}"
            write(data / f"{name}.jsonl.gz", transcribed(real[split], language))
    if not real["train"]:
        known = {cut.supervisions[0].text for split in ("train", "valid") for cut in tts[split]}
        new = [cut for cut in tts["test"] if cut.supervisions[0].text not in known]
        for split, cuts in (tts | {"test": new}).items():
            write(data / f"cuts_asr_{split}.jsonl.gz", transcribed(cuts, "en"))


def transcribed(cuts: Iterable[MonoCut], language: str) -> list[MonoCut]:
    return [cut for cut in cuts if cut.supervisions[0].language == language and cut.supervisions[0].text]


def write_verification(data: Path, real: Splits, tts: Splits, valid: float, seed: int) -> None:
    """Training and validation cuts of the speakers that are learned."""
    rng = random.Random(f"verification-{seed}")
    seen = [cut for cut in real["train"] if cut.supervisions[0].speaker not in TEST_SPEAKERS]
    by_speaker = defaultdict(list)
    for cut in long_enough(seen + tts["train"] + tts["valid"]):
        by_speaker[cut.supervisions[0].speaker].append(cut)
    splits: Splits = {"train": [], "valid": []}
    for cuts in by_speaker.values():
        chosen = rng.sample(cuts, min(len(cuts), MAX_PER_SPEAKER))
        num_valid = max(1, round(valid * len(chosen)))
        splits["valid"] += chosen[:num_valid]
        splits["train"] += chosen[num_valid:]
    for split, cuts in splits.items():
        write(data / f"cuts_speaker_{split}.jsonl.gz", cuts)


def long_enough(cuts: Iterable[MonoCut]) -> list[MonoCut]:
    return [cut for cut in cuts if cut.duration >= MIN_TRIAL_SECONDS]


def write_trials(data: Path, real: Splits, voices: list[MonoCut], count: int, seed: int) -> None:
    """Cuts of unseen speakers, and trials between them: synthetic ones to choose by, real and synthetic to test."""
    unseen = {
        split: long_enough(cut for cut in voices if cut.custom["split"] == split)
        for split in ("valid", "test")
    }
    people = long_enough(cut for cut in real["test"] if cut.supervisions[0].speaker in TEST_SPEAKERS)
    write(data / "cuts_trials_valid.jsonl.gz", unseen["valid"])
    write(data / "cuts_trials_test.jsonl.gz", people + unseen["test"])
    for name, cuts in {"valid": unseen["valid"], "real": people, "tts": unseen["test"]}.items():
        if cuts:
            trials = draw_trials(cuts, count, random.Random(f"{name}-{seed}"))
            write_trial_file(data / f"trials_{name}.txt", trials)


def draw_trials(cuts: list[MonoCut], count: int, rng: random.Random) -> list[Trial]:
    """As many target as nontarget trials.

    Half of either are hard, as far as there are such pairs.
    """
    kinds = defaultdict(list)
    for pair in combinations(sorted(cuts, key=lambda cut: cut.id), 2):
        kinds[is_target(pair), is_hard(pair)].append(pair)
    trials: list[Trial] = []
    for target in (True, False):
        hard, easy = kinds[target, True], kinds[target, False]
        num_hard = min(len(hard), max(count // 2, count - len(easy)))
        trials += rng.sample(hard, num_hard) + rng.sample(easy, min(len(easy), count - num_hard))
    return sorted(trials, key=lambda pair: (pair[0].id, pair[1].id))


def is_target(pair: Trial) -> bool:
    return pair[0].supervisions[0].speaker == pair[1].supervisions[0].speaker


def is_hard(pair: Trial) -> bool:
    """Whether a trial is hard: one speaker in two languages, or two of one gender in one language."""
    same_language = pair[0].supervisions[0].language == pair[1].supervisions[0].language
    if is_target(pair):
        return not same_language
    return same_language and pair[0].custom.get("gender") == pair[1].custom.get("gender")


def write_trial_file(path: Path, trials: list[Trial]) -> None:
    if not any(map(is_target, trials)) or all(map(is_target, trials)):
        raise UserError(f"{path}: expected target and nontarget trials, found {len(trials)} of one kind")
    with atomic_write(path) as file:
        for pair in trials:
            file.write(f"{pair[0].id} {pair[1].id} {'target' if is_target(pair) else 'nontarget'}\n")
    print(f"tasks: {path.name}: {sum(map(is_target, trials))} target, {len(trials)} trials")


def write(path: Path, cuts: list[MonoCut]) -> None:
    if not cuts:
        raise UserError(f"{path}: no cuts for this file, expected at least one")
    write_cuts(path, cuts)
    speakers = {cut.supervisions[0].speaker for cut in cuts}
    minutes = sum(cut.duration for cut in cuts) / 60
    print(f"tasks: {path.name}: {len(cuts)} cuts, {minutes:.1f} min, {len(speakers)} speakers")


if __name__ == "__main__":
    run(main)

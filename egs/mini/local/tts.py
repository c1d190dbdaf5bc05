"""Speaks training sentences with many synthetic voices, so that there are speakers to tell apart.

Writes cuts_tts.jsonl.gz, skipped_tts.jsonl and phones_tts.ctm, the phones that espeak-ng reports. A speaker is a
voice variant of espeak-ng with its own pitch, liveliness, pace and vocal-tract length. Each has a split (custom field
`split`): those for validation and testing are heard in no training and have variants of their own.
"""

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from corpus import LANGUAGES, read_source
from lhotse import MonoCut
from scipy.signal import resample_poly
from sentences import sentence

from toolkit.bin import run
from toolkit.data.codecs import SAMPLE_RATE, write_flac
from toolkit.data.espeak import Espeak, Voice
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.validate import TASKS, skipped_row, validate
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, write_json, write_jsonl
from toolkit.progress import progress

# The variants that sound like a person: no whisper, no echo, no robot.
VARIANTS = {
    "female": "Alicia Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda shelby steph steph2 "
    "steph3",
    "male": "Alex Andy Denis Diogo Gene Henrique Hugo Jacky Lee Mario Michael Mike Nguyen Reed adam antonio "
    "benjamin boris david ed edward grandpa gustave ian iven4 john klatt klatt2 klatt3 klatt6 m1 m2 m3 m4 m5 "
    "m6 m7 m8 marcelo max michel miguel norbert pablo pedro quincy rob robert sandro travis victor",
}
ACCENTS = {
    "en": ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd"),
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "ru": ("ru",),
}
MAX_LETTERS = 90
"""Longest sentence that is given to a voice."""


@dataclass(frozen=True)
class Speaker:
    """A synthetic person."""

    name: str
    gender: str
    variant: str
    split: str
    """What it is for: one of SPLITS."""
    accents: dict[str, str]
    pitch: int
    range: int
    rate: int
    tract: float
    """What resonances and pitch are multiplied by."""
    level: float
    """Loudness in dB."""


@dataclass(frozen=True)
class Line:
    """A sentence to be spoken."""

    language: str
    text: str


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--data", type=Path, required=True, help="data folder of the recipe")
    result.add_argument("--speakers", type=int, default=80, help="number of voices (default: 80)")
    result.add_argument("--seconds", type=float, default=60, help="speech of each voice, about (default: 60)")
    result.add_argument("--seed", type=int, default=0, help="decides voices and sentences (default: 0)")
    result.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(
            "espeak-ng: the package espeakng-loader is not installed; pip install espeakng-loader"
        )
    pool = read_sentences(args.data)
    tasks = [
        (
            speaker,
            choose_lines(speaker, pool, args.seconds, args.seed),
            args.data.absolute() / "audio" / "tts" / speaker.name,
        )
        for speaker in invent_speakers(args.speakers, args.seed)
    ]
    speak_all(tasks, args.jobs)
    skipped: list[dict] = []
    write_cuts(args.data / "cuts_tts.jsonl.gz", collect(tasks, skipped))
    write_jsonl(args.data / "skipped_tts.jsonl", skipped)
    write_phones(args.data / "phones_tts.ctm", tasks)
    cuts = list(open_cuts(args.data / "cuts_tts.jsonl.gz"))
    print(
        f"tts: {len({cut.supervisions[0].speaker for cut in cuts})} voices, {len(cuts)} sentences, "
        f"{sum(cut.duration for cut in cuts) / 60:.1f} min; skipped {len(skipped)}"
    )


def read_sentences(data: Path) -> dict[str, list[str]]:
    """Sentences of the training split by language: at least three words, and not too long."""
    pool: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    if read_source(data) != "espeak":
        for cut in open_cuts(data / "cuts_real_train.jsonl.gz"):
            segment = cut.supervisions[0]
            if segment.text and segment.text.count(" ") >= 2 and len(segment.text) <= MAX_LETTERS:
                pool[segment.language].add(segment.text)
    return {language: sorted(texts) for language, texts in pool.items()}


def invent_speakers(count: int, seed: int) -> list[Speaker]:
    """Half of them female; a quarter of the pairs is unseen in training, with variants of its own."""
    rng = random.Random(f"speakers-{seed}")
    decks = {gender: rng.sample(names.split(), len(names.split())) for gender, names in VARIANTS.items()}
    speakers = []
    for index in range(count):
        gender = ("female", "male")[index % 2]
        number = index // 2
        split = "train" if number % 4 < 3 else "valid" if number % 12 == 3 else "test"
        # The first quarter of the shuffled variants is for the unseen; both parts are walked round and round.
        deck, unseen = decks[gender], number // 4
        own = deck[len(deck) // 4 :] if split == "train" else deck[: len(deck) // 4]
        turn = number - unseen if split == "train" else unseen
        others = rng.sample([language for language in ACCENTS if language != "en"], rng.choice((1, 2)))
        speakers.append(
            Speaker(
                name=f"tts{index:03d}",
                gender=gender,
                variant=own[turn % len(own)],
                split=split,
                accents={language: rng.choice(ACCENTS[language]) for language in ("en", *others)},
                pitch=rng.randint(30, 75),
                range=rng.randint(30, 75),
                rate=rng.randint(140, 200),
                # Speakers with the same variant differ in the length of their vocal tract at least.
                tract=1 + 0.05 * ((turn // len(own) * 2 + rng.choice((0, 1))) % 5 - 2),
                level=rng.uniform(-30, -22),
            )
        )
    return speakers


def choose_lines(speaker: Speaker, pool: dict[str, list[str]], seconds: float, seed: int) -> list[Line]:
    """Sentences for about so many seconds: by turns two of the training split, one of the phrase book."""
    rng = random.Random(f"lines-{seed}-{speaker.name}")
    lines: list[Line] = []
    # About 14 letters are spoken in a second.
    while sum(len(line.text) for line in lines) < 14 * seconds:
        language = "en" if len(lines) % 2 == 0 else rng.choice(sorted(speaker.accents))
        drawn = pool[language] and len(lines) % 3
        line = Line(language, rng.choice(pool[language]) if drawn else sentence(language, rng))
        if line not in lines:
            lines.append(line)
    return lines


def speak_all(tasks: list[tuple[Speaker, list[Line], Path]], jobs: int) -> None:
    """Speaks in a fresh process a speaker; the library is not deterministic otherwise, and might crash."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    todo = [task for task in tasks if not is_spoken(*task)]
    running: list[multiprocessing.Process] = []
    for task in progress(todo, len(todo), "voices"):
        if len(running) == jobs:
            running.pop(0).join()
        running.append(context.Process(target=speak, args=task))
        running[-1].start()
    for process in running:
        process.join()


def digest(speaker: Speaker, lines: list[Line]) -> str:
    """Stands for everything that decides what is spoken."""
    content = json.dumps([asdict(speaker), [asdict(line) for line in lines]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def is_spoken(speaker: Speaker, lines: list[Line], folder: Path) -> bool:
    done = folder / "done.json"
    return done.is_file() and read_json(done)["digest"] == digest(speaker, lines)


def speak(speaker: Speaker, lines: list[Line], folder: Path) -> None:
    """Writes every line of a speaker to <folder>/<number>.flac, their lengths and phones to done.json."""
    espeak = Espeak()
    rng = random.Random(f"speak-{speaker.name}")
    lengths, alignments = [], []
    for number, line in enumerate(lines):
        voice = Voice(
            speaker.accents[line.language],
            speaker.variant,
            speaker.pitch + rng.randint(-3, 3),
            speaker.range,
            round(speaker.rate / speaker.tract * rng.uniform(0.95, 1.05)),
        )
        spoken, phones = espeak.say(line.text, voice)
        samples = change_tract(spoken, espeak.sampling_rate, speaker.tract)
        pace = len(samples) / SAMPLE_RATE * espeak.sampling_rate / max(1, len(spoken))
        alignments.append([(phone.name, round(phone.start * pace, 3)) for phone in phones])
        samples = set_level(samples, speaker.level + rng.uniform(-2, 2))
        lengths.append(write_flac(folder / f"{number:03d}.flac", [samples]))
    write_json(
        folder / "done.json", {"digest": digest(speaker, lines), "lengths": lengths, "phones": alignments}
    )


def change_tract(samples: np.ndarray, sampling_rate: int, tract: float) -> np.ndarray:
    """Resamples to 16 kHz as if recorded at `tract` times the rate; resonances and pitch move alike."""
    ratio = Fraction(SAMPLE_RATE, round(sampling_rate * tract / 50) * 50)
    return resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def set_level(samples: np.ndarray, level: float) -> np.ndarray:
    """Scales to a level (root mean square) in dB, but not beyond full scale."""
    if not samples.size or not samples.any():
        return samples
    gain = 10 ** (level / 20) / np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    return samples * np.float32(min(gain, 0.99 / np.abs(samples).max()))


def cut_id(speaker: Speaker, line: Line, number: int) -> str:
    return f"{speaker.name}-{line.language}-{number:03d}"


def write_phones(path: Path, tasks: list[tuple[Speaker, list[Line], Path]]) -> None:
    """Writes the phones of all that was spoken as CTM; stress is left out, a pause is "sil"."""
    with atomic_write(path) as file:
        for speaker, lines, folder in tasks:
            if not is_spoken(speaker, lines, folder):
                continue
            spoken = read_json(folder / "done.json")
            for number, (line, phones) in enumerate(zip(lines, spoken["phones"], strict=True)):
                ends = [start for _, start in phones[1:]] + [spoken["lengths"][number] / SAMPLE_RATE]
                for (name, start), end in zip(phones, ends, strict=True):
                    token = name.strip("',_:|%") or "sil"
                    file.write(f"{cut_id(speaker, line, number)} 1 {start:.3f} {end - start:.3f} {token}\n")


def collect(tasks: list[tuple[Speaker, list[Line], Path]], skipped: list[dict]) -> Iterator[MonoCut]:
    """Cuts of everything that was spoken and can be used; rows about the rest are added to `skipped`."""
    cuts = []
    for speaker, lines, folder in tasks:
        if not is_spoken(speaker, lines, folder):
            skipped.append(
                skipped_row(speaker.name, folder, f"no speech: espeak-ng failed for {speaker.variant!r}")
            )
            continue
        for number, (line, length) in enumerate(
            zip(lines, read_json(folder / "done.json")["lengths"], strict=True)
        ):
            name = cut_id(speaker, line, number)
            path = folder / f"{number:03d}.flac"
            custom = {"source": "tts", "gender": speaker.gender, "split": speaker.split}
            cuts.append(
                mono_cut(name, path, length, SAMPLE_RATE, line.text, speaker.name, line.language, **custom)
            )
    for cut, reason in validate(cuts, TASKS["asr"], decode=True):
        if reason is None:
            yield cut
        else:
            skipped.append(skipped_row(cut.id, cut.recording.sources[0].source, reason))


if __name__ == "__main__":
    run(main)

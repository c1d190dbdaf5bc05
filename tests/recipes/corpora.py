"""Small corpora of tones in the official layouts of large ones."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from toolkit.data.synthetic import FRAME_SHIFT, LETTERS, SAMPLING_RATE, WORDS, speak


def speech(seconds: float, speaker: int, rng: random.Random) -> tuple[str, np.ndarray, list[str]]:
    """Words of at least so many seconds: their text, samples, and a letter every FRAME_SHIFT, "" for pauses."""
    texts, pieces, letters = [], [], []
    while sum(map(len, pieces)) < seconds * SAMPLING_RATE:
        texts.append(" ".join(rng.choices(WORDS, k=3)))
        samples, labels = speak(texts[-1], 100 + 40 * speaker, 1 - 0.1 * speaker, rng)
        pieces.append(samples)
        letters += ["" if label == 0 else LETTERS[label - 1] for label in labels]
    return " ".join(texts), np.concatenate(pieces), letters


def librispeech(folder: Path, parts: dict[str, int], seconds: float = 3.0) -> Path:
    """LibriSpeech: PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac, transcripts beside, lists at the top.

    Args:
        folder: where the folder LibriSpeech goes.
        parts: utterances of each part; half of them by each of two speakers.
        seconds: least length of an utterance.

    Returns:
        The folder LibriSpeech; an alignment of letters is beside it, as letters.ctm.
    """
    corpus = folder / "LibriSpeech"
    rows: dict[str, list[str]] = {
        "SPEAKERS": [";ID  |SEX| SUBSET           |MINUTES| NAME"],
        "CHAPTERS": [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE"],
        "BOOKS": [";ID   | AUTHORS | TITLE"],
    }
    ctm = []
    for number, (part, count) in enumerate(parts.items()):
        for reader in (0, 1):
            speaker, chapter = 100 + 10 * number + reader, 1000 + 10 * number + reader
            rng = random.Random(f"{part} {reader}")
            place = corpus / part / str(speaker) / str(chapter)
            place.mkdir(parents=True)
            lines = []
            for utterance in range(count // 2):
                name = f"{speaker}-{chapter}-{utterance:04d}"
                text, samples, letters = speech(seconds + rng.random(), reader, rng)
                soundfile.write(place / f"{name}.flac", samples, SAMPLING_RATE, subtype="PCM_16")
                lines.append(f"{name} {text.upper()}\n")
                ctm += ctm_lines(name, letters)
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
            rows["SPEAKERS"].append(f"{speaker}  | F | {part:<16} | 1.00 | Reader {speaker}")
            rows["CHAPTERS"].append(f"{chapter} | {speaker} | 1.00 | {part:<16} | 1 | 1 | Tones | Tones")
    rows["BOOKS"].append("1 | Nobody | Tones")
    for name, lines in rows.items():
        (corpus / f"{name}.TXT").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "letters.ctm").write_text("".join(ctm), encoding="utf-8")
    return corpus


def ctm_lines(name: str, letters: list[str]) -> Iterator[str]:
    """The lines of an utterance in a CTM of letters."""
    start = 0
    for letter, group in itertools.groupby(letters):
        count = len(list(group))
        if letter:
            yield f"{name} 1 {start * FRAME_SHIFT:.2f} {count * FRAME_SHIFT:.2f} {letter}\n"
        start += count


def librilight(folder: Path, subsets: dict[str, int], seconds: float = 20.0) -> Path:
    """Libri-Light: SUBSET/SPEAKER/BOOK/NAME.flac, and NAME.json with speaker and voice activity.

    Args:
        folder: where the folder goes.
        subsets: speakers of each subset, with one recording each.
        seconds: least length of a recording, of which a second in every five or so is a pause.

    Returns:
        The folder librilight.
    """
    corpus = folder / "librilight"
    for number, (subset, speakers) in enumerate(subsets.items()):
        (corpus / subset).mkdir(parents=True)
        for reader in range(speakers):
            speaker = str(200 + 10 * number + reader)
            rng = random.Random(f"{subset} {reader}")
            place = corpus / subset / speaker / "tones_0812_librivox_64kb_mp3"
            place.mkdir(parents=True)
            pieces, activity, end = [], [], 0.0
            while end < seconds:
                _, samples, _ = speech(2 + 2 * rng.random(), reader, rng)
                start, end = end, end + len(samples) / SAMPLING_RATE
                activity.append([start, end])
                pieces += [samples, np.zeros(SAMPLING_RATE * (len(activity) % 2), np.float32)]
                end += len(activity) % 2
            name = f"0{reader + 1}_tones_64kb"
            soundfile.write(place / f"{name}.flac", np.concatenate(pieces), SAMPLING_RATE, subtype="PCM_16")
            about = {"speaker": speaker, "book_meta": {"id": "1", "title": "Tones"}, "snr": 20.0}
            (place / f"{name}.json").write_text(json.dumps({**about, "voice_activity": activity}))
    return corpus

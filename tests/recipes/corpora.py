"""Small corpora of tones in the official layouts of large ones."""

import gzip
import itertools
import json
import math
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
            place = corpus / part / str(speaker) / str(chapter)
            ctm += chapter_of(place, reader, count // 2, seconds)
            rows["SPEAKERS"].append(f"{speaker}  | F | {part:<16} | 1.00 | Reader {speaker}")
            rows["CHAPTERS"].append(f"{chapter} | {speaker} | 1.00 | {part:<16} | 1 | 1 | Tones | Tones")
    rows["BOOKS"].append("1 | Nobody | Tones")
    for name, lines in rows.items():
        (corpus / f"{name}.TXT").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "letters.ctm").write_text("".join(ctm), encoding="utf-8")
    return corpus


def chapter_of(place: Path, reader: int, count: int, seconds: float) -> list[str]:
    """Writes the utterances of a folder SPEAKER/CHAPTER, and their transcripts; the lines of a CTM of letters."""
    rng = random.Random(f"{place.parts[-4:]} {reader}")
    place.mkdir(parents=True)
    prefix = f"{place.parent.name}-{place.name}"
    lines, ctm = [], []
    for utterance in range(count):
        name = f"{prefix}-{utterance:04d}"
        text, samples, letters = speech(seconds + rng.random(), reader, rng)
        soundfile.write(place / f"{name}.flac", samples, SAMPLING_RATE, subtype="PCM_16")
        lines.append(f"{name} {text.upper()}\n")
        ctm += ctm_lines(name, letters)
    (place / f"{prefix}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return ctm


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


def librispeech_finetuning(folder: Path, seconds: float = 3.0) -> Path:
    """Libri-Light's labelled sets: {1h/0 ... 1h/5, 9h}/{clean,other}/SPEAKER/CHAPTER, as in LibriSpeech.

    Args:
        folder: where the folder goes.
        seconds: least length of an utterance, of which there are two in each folder.

    Returns:
        The folder librispeech_finetuning.
    """
    corpus = folder / "librispeech_finetuning"
    sets = [*(f"1h/{number}" for number in range(6)), "9h"]
    for number, (name, kind) in enumerate(itertools.product(sets, ("clean", "other"))):
        chapter_of(corpus / name / kind / str(300 + number) / str(3000 + number), number % 2, 2, seconds)
    return corpus


def librispeech_lm(folder: Path) -> Path:
    """What LibriSpeech offers for language models (openslr 11): lexicon, trigrams, text.

    Args:
        folder: where the folder goes.

    Returns:
        The folder, named lm.
    """
    place = folder / "lm"
    place.mkdir(parents=True)
    words = [word.upper() for word in WORDS]
    lexicon = (f"{word}\t{' '.join(f'{letter}0' for letter in word)}\n" for word in words)
    (place / "librispeech-lexicon.txt").write_text("".join(lexicon), encoding="utf-8")
    with gzip.open(place / "3-gram.pruned.1e-7.arpa.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in even_trigrams(words))
    rng = random.Random("lm")
    with gzip.open(place / "librispeech-lm-norm.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(" ".join(rng.choices(words, k=rng.randint(2, 8))) + "\n" for _ in range(200))
    return place


def even_trigrams(words: list[str]) -> Iterator[str]:
    """An ARPA file in which all words are equally likely, but for one pair and one triple."""
    even = f"{-math.log10(len(words) + 2):.6f}"
    first, second, third = words[:3]
    yield from ("\\data\\", f"ngram 1={len(words) + 3}", "ngram 2=1", "ngram 3=1", "", "\\1-grams:")
    yield from (f"{even}\t<unk>", "-99\t<s>\t0.000000", f"{even}\t</s>")
    yield from (f"{even}\t{word}\t0.000000" for word in words)
    yield from ("", "\\2-grams:", f"-0.301030\t{first} {second}\t0.000000")
    yield from ("", "\\3-grams:", f"-0.301030\t{first} {second} {third}", "", "\\end\\")


def musan(folder: Path) -> Path:
    """MUSAN: {music,speech,noise}/SOURCE/KIND-SOURCE-NUMBER.wav, and what is known of the music.

    Args:
        folder: where the folder goes.

    Returns:
        The folder musan.
    """
    corpus = folder / "musan"
    generator = np.random.default_rng(0)
    for kind, source in (("music", "fma"), ("speech", "librivox"), ("noise", "free-sound")):
        place = corpus / kind / source
        place.mkdir(parents=True)
        for number in range(2):
            samples = 0.1 * generator.standard_normal(SAMPLING_RATE * (2 + 5 * number))
            soundfile.write(
                place / f"{kind}-{source}-{number:04d}.wav", samples, SAMPLING_RATE, subtype="PCM_16"
            )
    rows = (f"music-fma-{number:04d} tones N Nobody\n" for number in range(2))
    (corpus / "music/fma/ANNOTATIONS").write_text("".join(rows), encoding="utf-8")
    return corpus


CHARACTERS = dict(zip(LETTERS, "我你他她它们的是不了在有人", strict=True))
"""A character for every letter that the tones spell."""


def aishell(folder: Path, counts: dict[str, int], seconds: float = 3.0) -> Path:
    """AISHELL-1: data_aishell with audio and transcripts of words, resource_aishell with a lexicon.

    Args:
        folder: where the folder goes.
        counts: utterances of each part (train, dev, test); half of them by each of two speakers.
        seconds: least length of an utterance.

    Returns:
        The folder aishell.
    """
    corpus = folder / "aishell"
    lines = []
    for number, (part, count) in enumerate(counts.items()):
        for reader in (0, 1):
            speaker = f"S{2 + 10 * number + reader:04d}"
            place = corpus / "data_aishell/wav" / part / speaker
            place.mkdir(parents=True)
            rng = random.Random(f"{part} {reader}")
            for utterance in range(count // 2):
                name = f"BAC009{speaker}W{122 + utterance:04d}"
                text, samples, _ = speech(seconds + rng.random(), reader, rng)
                soundfile.write(place / f"{name}.wav", samples, SAMPLING_RATE, subtype="PCM_16")
                lines.append(f"{name} {chinese(text)}\n")
    transcripts = corpus / "data_aishell/transcript/aishell_transcript_v0.8.txt"
    transcripts.parent.mkdir()
    transcripts.write_text("".join(lines), encoding="utf-8")
    lexicon = corpus / "resource_aishell/lexicon.txt"
    lexicon.parent.mkdir()
    # A second pronunciation of the first word, as some words have.
    rows = ["SIL sil", *(f"{chinese(word)} {' '.join(word)}" for word in WORDS), f"{chinese(WORDS[0])} x y"]
    lexicon.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return corpus


def chinese(text: str) -> str:
    """Words of letters as words of characters."""
    return "".join(CHARACTERS.get(letter, letter) for letter in text)

"""What the scripts of this recipe know about the recordings."""

from pathlib import Path
from typing import NamedTuple

from toolkit.errors import UserError

VERSION = "1.6.1"


class Language(NamedTuple):
    """One language of Asterisk's core sounds."""

    speaker: str
    gender: str
    test_words: float
    """Share of the sentences of one word that are for testing."""
    test_sentences: float
    """Share of the sentences of several words that are for testing."""


# English and Spanish are spoken by the same person. English is what is recognised, hence its large test set.
# French and Italian are those of the speakers that verification and diarization are tested on.
LANGUAGES = {
    "en": Language("allison", "female", 0.25, 0.53),
    "es": Language("allison", "female", 0.15, 0.15),
    "fr": Language("june", "female", 0.15, 0.25),
    "it": Language("carlo", "male", 0.15, 0.25),
    "ru": Language("ivrvoice", "female", 0.15, 0.15),
}
TEST_SPEAKERS = {"june", "carlo"}
"""Real speakers that no verification or diarization training sees."""

SOURCES = ("debian", "upstream", "espeak")
SPLITS = ("train", "valid", "test")


def sounds_folder(data: Path, language: str) -> Path:
    """Where the G.722 files of a language lie."""
    return data / "raw" / language / "sounds"


def transcripts_file(data: Path, language: str) -> Path:
    """Where the transcripts of a language lie."""
    return data / "raw" / language / "transcripts.txt"


def read_source(data: Path) -> str:
    """Where the recordings came from: one of SOURCES."""
    path = data / "source.txt"
    if not path.is_file():
        raise UserError(f"{path}: no such file, run the stage `fetch` first")
    source = path.read_text(encoding="utf-8").strip()
    if source not in SOURCES:
        raise UserError(f"{path}:1: found {source!r}, expected one of {', '.join(SOURCES)}")
    return source

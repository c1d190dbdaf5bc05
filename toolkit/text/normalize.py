"""Normalised transcripts: what is said, without how it is written."""

import re
import unicodedata

_LATIN = "abcdefghijklmnopqrstuvwxyz"
ALPHABETS = {
    "en": _LATIN + "'",
    "es": _LATIN + "áéíóúüñ",
    "fr": _LATIN + "'àâæçéèêëîïôœùûüÿ",
    "it": _LATIN + "'àéèíìîóòúù",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}
"""Letters of each language's normalised text."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´", "'"))
_OUTER_APOSTROPHE = re.compile(r"(?<![^\W\d_])'|'(?![^\W\d_])")


def normalize(text: str, language: str | None = None) -> str:
    """Brings a transcript to NFC, lower case and single spaces, without punctuation.

    An apostrophe stays where it stands between two letters. Nothing is expanded: digits stay digits. Russian
    "ё" becomes "е", as most writers do not tell them apart.

    Example:
        >>> normalize("  Don’t hang-up: it's the U.S. “call”!")
        "don't hang up it's the u s call"

    Args:
        text: any text.
        language: ISO 639-1 code, for the rules that only one language needs.
    """
    text = unicodedata.normalize("NFC", text.lower()).translate(_APOSTROPHES)
    text = "".join(_plain(character) for character in text)
    text = " ".join(_OUTER_APOSTROPHE.sub(" ", text).split())
    return text.replace("ё", "е") if language == "ru" else text


def _plain(character: str) -> str:
    if character == "'":
        return character
    # Unicode categories: P punctuation, S symbols, Z separators, C control and format (such as a BOM).
    category = unicodedata.category(character)
    if category in ("Cf", "Co", "Cn"):
        return ""
    return " " if category[0] in "PSZC" else character


def foreign(text: str, language: str) -> set[str]:
    """Characters of normalised `text` that the language's alphabet lacks: digits, other scripts, damage.

    Raises:
        ValueError: for a language that ALPHABETS lacks.
    """
    if language not in ALPHABETS:
        raise ValueError(f"no alphabet for language {language!r}, expected one of {', '.join(ALPHABETS)}")
    return set(text) - set(ALPHABETS[language]) - {" "}

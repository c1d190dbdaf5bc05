"""Normalised transcripts: what is said, without how it is written; as steps that a recipe names."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial

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


_TAG = re.compile(r"<[^<>]*>|\[[^][]*\]")


def _punctuation(text: str) -> str:
    text = "".join(_plain(character) for character in text.translate(_APOSTROPHES))
    return _OUTER_APOSTROPHE.sub(" ", text)


def _plain(character: str) -> str:
    if character == "'":
        return character
    # Unicode categories: P punctuation, S symbols, Z separators, C control and format (such as a BOM).
    category = unicodedata.category(character)
    if category in ("Cf", "Co", "Cn"):
        return ""
    return " " if category[0] in "PSZC" else character


STEPS: dict[str, Callable[[str], str]] = {
    "nfc": partial(unicodedata.normalize, "NFC"),
    "nfkc": partial(unicodedata.normalize, "NFKC"),
    "lower": str.lower,
    "upper": str.upper,
    "tags": partial(_TAG.sub, " "),
    "apostrophes": lambda text: text.translate(_APOSTROPHES),
    "punctuation": _punctuation,
    "yo": lambda text: text.replace("ё", "е").replace("Ё", "Е"),
    "no_spaces": lambda text: "".join(text.split()),
}
"""What can be done to a transcript; TokenizerConfig.normalize says what each is."""


class Normalizer:
    """Steps that bring text to the form in which a recogniser learns it and gives it back.

    >>> Normalizer(["tags", "punctuation", "upper"])("So -- it's <noise> “fine”, isn’t it?")
    "SO IT'S FINE ISN'T IT"

    Args:
        steps: names in STEPS, in their order. Without any, text stays as it is; otherwise white space, too, becomes
            single spaces.

    Raises:
        ValueError: there is no such step.
    """

    def __init__(self, steps: Iterable[str] = ()) -> None:
        self.steps = list(steps)
        wrong = [step for step in self.steps if step not in STEPS]
        if wrong:
            raise ValueError(f"normalize: found {wrong[0]!r}, expected steps among {', '.join(STEPS)}")

    def __call__(self, text: str) -> str:
        """The text after all steps."""
        for step in self.steps:
            text = STEPS[step](text)
        return " ".join(text.split()) if self.steps else text


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
    return _RUSSIAN(text) if language == "ru" else _SPOKEN(text)


AS_IS = Normalizer()
_SPOKEN = Normalizer(["lower", "nfc", "punctuation"])
_RUSSIAN = Normalizer([*_SPOKEN.steps, "yo"])


def foreign(text: str, language: str) -> set[str]:
    """Characters of normalised `text` that the language's alphabet lacks: digits, other scripts, damage.

    Raises:
        ValueError: for a language that ALPHABETS lacks.
    """
    if language not in ALPHABETS:
        raise ValueError(f"no alphabet for language {language!r}, expected one of {', '.join(ALPHABETS)}")
    return set(text) - set(ALPHABETS[language]) - {" "}

"""Lists of phrases that recognition shall favour: one a line, and after a tab its own score if it has one."""

import math
from pathlib import Path
from typing import NamedTuple

from toolkit.errors import UserError
from toolkit.files import read_text
from toolkit.text.tokenizer import Tokenizer


class Phrase(NamedTuple):
    """Words that are expected."""

    tokens: list[int]
    """Ids of its symbols."""
    score: float
    """What each of its tokens adds to the score of a hypothesis."""


def read_phrases(path: str | Path, tokenizer: Tokenizer, score: float) -> list[Phrase]:
    """Reads a list of phrases.

    Args:
        path: the file; empty lines are skipped.
        tokenizer: of the model; it normalises phrases as it does transcripts.
        score: of a token, for phrases without a score of their own.

    Raises:
        UserError: with file and line: a score is no number, a phrase has nothing to say or symbols outside the
            vocabulary; or there is no phrase.
    """
    phrases, unknown = [], []
    lines = read_text(path, "a phrase a line").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text, tab, own = line.partition("\t")
        tokens = tokenizer.encode(text)
        if not tokens:
            raise UserError(f"{path}:{number}: found {text!r}, expected a phrase of words")
        if strange := tokenizer.unknown(text):
            unknown.append((number, text, strange[0]))
        phrases.append(Phrase(tokens, _number(path, number, own) if tab else score))
    if unknown:
        number, text, strange = unknown[0]
        more = f" ({len(unknown)} such lines)" if len(unknown) > 1 else ""
        raise UserError(
            f"{path}:{number}: found {text!r}{more}, expected no {strange!r}, which the model lacks"
        )
    if not phrases:
        raise UserError(f"{path}: found no phrase, expected one a line")
    return phrases


def _number(path: str | Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score) or score == 0:
        raise UserError(
            f"{path}:{number}: found {text.strip()!r} after the tab, expected a score other than 0"
        )
    return score

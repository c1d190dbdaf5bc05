"""What searches return: hypotheses of tokens and words with their times.

Searches count time in encoder frames. `in_seconds` makes seconds of them for what is shown or written.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar


class Token(NamedTuple):
    """A token with its time."""

    id: int
    """1 or more; 0 is the blank."""
    start: float
    """First frame."""
    end: float
    """The frame after its last."""
    score: float
    """Log-probability, mean over its frames."""


class Word(NamedTuple):
    """A word, or a token's symbol, with its time."""

    text: str
    start: float
    """First frame."""
    end: float
    """The frame after its last."""
    score: float
    """Log-probability, mean over its frames or tokens."""


class Hypothesis(NamedTuple):
    """One reading of an utterance. An n-best list is a list of these, best first."""

    tokens: list[Token]
    score: float
    """Log-probability, with what was fused in; comparable only within the utterance and the search."""
    words: list[Word] | None = None
    """Of searches that know words, through a lexicon."""


Timed = TypeVar("Timed", Token, Word)


def in_seconds(items: Iterable[Timed], frame_shift: float) -> list[Timed]:
    """Tokens or words with their times in seconds instead of frames.

    >>> in_seconds([Word("yes", 10, 15, -0.5)], 0.04)
    [Word(text='yes', start=0.4, end=0.6, score=-0.5)]
    """
    return [item._replace(start=item.start * frame_shift, end=item.end * frame_shift) for item in items]

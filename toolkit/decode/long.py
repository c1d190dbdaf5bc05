"""Long recordings: overlapping windows are recognised one by one, and their words joined by time.

All times are seconds from the start of the recording.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from toolkit.decode.hypothesis import Token, Word

Timed = TypeVar("Timed", Token, Word)


def windows(blocks: Iterable[np.ndarray], size: int, step: int) -> Iterator[np.ndarray]:
    """Cuts a stream of samples into overlapping windows; the last one is as long as the audio lasts.

    >>> [w.tolist() for w in windows([np.arange(3), np.arange(3, 7)], size=4, step=2)]
    [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
    """
    parts: list[np.ndarray] = []
    count = covered = 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        # Blocks may be tiny, so that they are joined only when they fill a window.
        if count >= size:
            held = np.concatenate(parts)
            while len(held) >= size:
                yield held[:size]
                covered = size - step
                held = held[step:]
            parts, count = [held], len(held)
    if count > covered:
        yield np.concatenate(parts)


def seam(words: Sequence[Word], start: float, end: float) -> float:
    """Where to go over from one window to the next: in the middle of the longest pause within their overlap.

    A word that is cut by the edge of a window is often misheard; away from the edges both windows hear the same.

    Args:
        words: of the earlier window.
        start: where the later window begins.
        end: where the earlier window ends.

    >>> seam([Word("so", 7.0, 8.2, 0.0), Word("it", 8.8, 9.0, 0.0)], 8.0, 10.0)
    9.25
    """
    # A quarter of the overlap is kept away from at both edges.
    low, high = start + (end - start) / 4, end - (end - start) / 4
    edges = [low, *(min(max(time, low), high) for word in words for time in (word.start, word.end)), high]
    pauses = zip(edges[::2], edges[1::2], strict=True)
    first, last = max(pauses, key=lambda pause: pause[1] - pause[0])
    return (first + last) / 2 if last > first else (low + high) / 2


def between(items: Iterable[Timed], start: float, end: float) -> list[Timed]:
    """Those that begin in [start, end)."""
    return [item for item in items if start <= item.start < end]

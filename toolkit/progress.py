"""Progress for people: a bar with ETA on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int | None, label: str, every: float = 10.0) -> Iterator[Item]:
    """Yields `items` while it shows how far along they are, on standard error.

    Args:
        items: what to go through.
        total: how many there are, or None if unknown (then no ETA).
        label: what is being done, in a word or two.
        every: seconds between two plain lines where no terminal is attached.
    """
    terminal = sys.stderr.isatty()
    start = last = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= (0.2 if terminal else every):
            last = now
            _show(line(label, count, total, now - start), terminal)
    if terminal or last != start:
        _show(line(label, count, count, time.monotonic() - start) + " done", terminal, end=True)


def line(label: str, done: int, total: int | None, seconds: float) -> str:
    """One line of progress: label, bar, count, elapsed time and ETA."""
    if not total:
        return f"{label}: {done} in {clock(seconds)}"
    filled = int(20 * done / total)
    eta = clock(seconds * (total - done) / done) if done else "?"
    return f"{label} [{'#' * filled}{'.' * (20 - filled)}] {done}/{total} {clock(seconds)} ETA {eta}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _show(text: str, terminal: bool, end: bool = False) -> None:
    if terminal:
        print(f"\r\033[K{text}", end="\n" if end else "", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)

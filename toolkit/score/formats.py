"""Reading text files line by line, RTTM and UEM; every fault names its file and line."""

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from toolkit.score.errors import ScoreError

# Line types of RTTM (NIST RT-09 evaluation plan, appendix A) that say nothing about who speaks when.
RTTM_OTHER = frozenset(
    "SEGMENT NON-LEX NON-SPEECH LEXEME EDIT FILLER SU CB IP A/P NO_RT_METADATA SPKR-INFO".split()
)


class Turn(NamedTuple):
    """A stretch of speech of one speaker, in seconds."""

    start: float
    end: float
    speaker: str


Turns = dict[str, list[Turn]]
"""Recording -> its turns."""

Regions = dict[str, list[tuple[float, float]]]
"""Recording -> the regions (start, end) in seconds that are scored."""


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yields (line number, stripped line) of a UTF-8 file, plain or ".gz", without the blank lines.

    Raises:
        ScoreError: the file is missing, damaged or not text.
    """
    path = Path(path)
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line := line.strip():
                    yield number, line
    except UnicodeDecodeError:
        raise ScoreError(
            f"{path}:{number + 1}: found bytes that are not UTF-8, expected a text file"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScoreError(f"{path}:{number + 1}: found damaged gzip data ({error})") from None
    except OSError as error:
        raise ScoreError(f"{path}: {error.strerror}, expected a readable text file") from None


def malformed(path: str | Path, line: int, found: str, expected: str) -> ScoreError:
    """The error for a line that cannot be understood; what was found is cut to a readable length."""
    found = found if len(found) <= 80 else found[:77] + "..."
    return ScoreError(f"{path}:{line}: found {found!r}, expected {expected}")


def to_number(field: str, path: str | Path, line: int, what: str) -> float:
    """The finite number that a field holds, or a ScoreError that says `what` it should have been."""
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise malformed(path, line, field, f"{what}, a finite number")
    return value


def to_interval(start: str, second: str, path: str | Path, line: int, *, length: bool) -> tuple[float, float]:
    """(start, end) in seconds from a start and an end, or, with `length`, from a start and a duration."""
    begin = to_number(start, path, line, "a start time in seconds")
    other = to_number(second, path, line, "a duration in seconds" if length else "an end time in seconds")
    if begin < 0 or other < (0 if length else begin):
        rule = "a start and a duration of at least 0" if length else "0 <= start <= end"
        raise malformed(path, line, f"{start} {second}", rule)
    return begin, begin + other if length else other


def read_rttm(paths: Sequence[str | Path]) -> Turns:
    """Reads the lines `SPEAKER file channel start duration <NA> <NA> speaker <NA> <NA>` of RTTM files.

    The channel says nothing about the recording (programs put all sorts of values there), but one recording
    with several channels in the same file is refused: its channels would be mixed.
    """
    turns: Turns = {}
    for path in paths:
        channels: dict[str, str] = {}
        for line, text in read_lines(path):
            if text.startswith((";", "#")):
                continue
            fields = text.split()
            if fields[0] == "NOSCORE":
                raise malformed(path, line, "NOSCORE", "SPEAKER lines (give the scored regions as UEM)")
            if fields[0] in RTTM_OTHER:
                continue
            if fields[0] != "SPEAKER" or len(fields) < 8:
                raise malformed(
                    path, line, text, "`SPEAKER file channel start duration <NA> <NA> speaker ...`"
                )
            recording, channel, speaker = fields[1], fields[2], fields[7]
            if channels.setdefault(recording, channel) != channel:
                expected = f"{channels[recording]!r} as before: one channel a recording; split it by channel"
                raise malformed(path, line, f"{recording} channel {channel}", expected)
            start, end = to_interval(fields[3], fields[4], path, line, length=True)
            turns.setdefault(recording, []).append(Turn(start, end, speaker))
    return turns


def read_uem(path: str | Path) -> Regions:
    """Reads an un-partitioned evaluation map: `file channel start end`, times in seconds."""
    regions: Regions = {}
    for line, text in read_lines(path):
        if text.startswith((";", "#")):
            continue
        fields = text.split()
        if len(fields) != 4:
            raise malformed(path, line, text, "`file channel start end`")
        start, end = to_interval(fields[2], fields[3], path, line, length=False)
        if start == end:
            raise malformed(path, line, f"{fields[2]} {fields[3]}", "start < end")
        regions.setdefault(fields[0], []).append((start, end))
    if not regions:
        raise ScoreError(f"{path}: found no region, expected lines `file channel start end`")
    return regions

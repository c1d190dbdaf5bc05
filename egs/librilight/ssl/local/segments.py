"""Cuts of continuous speech, from the manifests that lhotse prepares of Libri-Light and its voice activity.

Neighbouring stretches of speech are joined, with the pauses between them, as long as the cut stays short enough; longer
ones are parted evenly.
"""

import argparse
import math
from collections.abc import Iterable, Iterator

from lhotse import MonoCut, Recording, SupervisionSegment

from toolkit.bin import run
from toolkit.data.manifests import write_cuts
from toolkit.data.pairs import recordings_with_supervisions
from toolkit.errors import UserError

RATE = 16_000
"""Cuts begin and end at whole samples."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--manifests", required=True, metavar="DIR", help="what lhotse prepare wrote")
    result.add_argument("--out", required=True, metavar="FILE", help="cuts to write")
    result.add_argument(
        "--max-seconds", type=float, default=15.6, metavar="S", help="longest cut (default: 15.6)"
    )
    result.add_argument(
        "--min-seconds", type=float, default=2.0, metavar="S", help="shortest cut (default: 2)"
    )
    result.add_argument(
        "--max-pause", type=float, default=1.0, metavar="S", help="longest pause (default: 1)"
    )
    result.add_argument("parts", nargs="+", metavar="PART", help="such as small")
    return result


def main(argv: list[str] | None = None) -> None:
    """Joins the parts."""
    args = parser().parse_args(argv)
    if not 0 <= args.min_seconds < args.max_seconds:
        raise UserError(
            f"--min-seconds, --max-seconds: found {args.min_seconds} and {args.max_seconds}, expected the first "
            "below the second"
        )
    seconds = 0.0

    def counted() -> Iterator[MonoCut]:
        nonlocal seconds
        for part in args.parts:
            for recording, segments in recordings_with_supervisions(args.manifests, "librilight", part):
                for cut in stretches(recording, segments, args):
                    seconds += cut.duration
                    yield cut

    count = write_cuts(args.out, counted())
    print(f"{args.out}: {count} cuts, {seconds / 3600:.1f} h")


def stretches(
    recording: Recording, segments: list[SupervisionSegment], args: argparse.Namespace
) -> Iterator[MonoCut]:
    """The cuts of a recording."""
    times = sorted((segment.start, min(segment.end, recording.duration)) for segment in segments)
    speaker = segments[0].speaker if segments else None
    number = 0
    for start, end in parted(joined(times, args.max_seconds, args.max_pause), args.max_seconds):
        if end - start < args.min_seconds:
            continue
        # Slashes in names are no good in lists of files, nor in tar files.
        name = f"{recording.id.replace('/', '-')}-{number:04d}"
        spoken = SupervisionSegment(name, recording.id, 0.0, end - start, speaker=speaker, language="en")
        yield MonoCut(name, start, end - start, 0, [spoken], recording=recording)
        number += 1


def joined(
    times: Iterable[tuple[float, float]], max_seconds: float, max_pause: float
) -> Iterator[tuple[float, float]]:
    """Starts and ends in order, with neighbours made one as long as that is short enough."""
    first = last = None
    for start, end in times:
        if first is None:
            first, last = start, end
        elif start - last <= max_pause and end - first <= max_seconds:
            last = max(last, end)
        else:
            yield first, last
            first, last = start, end
    if first is not None:
        yield first, last


def parted(times: Iterable[tuple[float, float]], max_seconds: float) -> Iterator[tuple[float, float]]:
    """The same, with what is too long in equal parts, in whole samples."""
    for start, end in times:
        count = max(1, math.ceil((end - start) / max_seconds))
        edges = [round(RATE * (start + (end - start) * part / count)) / RATE for part in range(count + 1)]
        yield from zip(edges, edges[1:], strict=False)


if __name__ == "__main__":
    run(main)

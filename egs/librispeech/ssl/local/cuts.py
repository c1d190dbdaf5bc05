"""Cuts of whole utterances, with the ids of the utterances, from the manifests that lhotse prepares."""

import argparse
import dataclasses
from collections.abc import Iterator

from lhotse import MonoCut

from toolkit.bin import run
from toolkit.data.manifests import write_cuts
from toolkit.data.pairs import recordings_with_supervisions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--manifests", required=True, metavar="DIR", help="what lhotse prepare wrote")
    result.add_argument("--out", required=True, metavar="FILE", help="cuts to write")
    result.add_argument("parts", nargs="+", metavar="PART", help="such as train-clean-100")
    return result


def main(argv: list[str] | None = None) -> None:
    """Joins the parts."""
    args = parser().parse_args(argv)
    count = write_cuts(args.out, (cut for part in args.parts for cut in utterances(args.manifests, part)))
    print(f"{args.out}: {count} cuts")


def utterances(manifests: str, part: str) -> Iterator[MonoCut]:
    """The cuts of a part."""
    for recording, segments in recordings_with_supervisions(manifests, "librispeech", part):
        # Lhotse notes English by its name, the toolkit any language by its code.
        segments = [dataclasses.replace(segment, language="en") for segment in segments]
        yield MonoCut(recording.id, 0.0, recording.duration, 0, segments, recording=recording)


if __name__ == "__main__":
    run(main)

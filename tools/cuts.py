"""Cuts of whole recordings, with the ids of the recordings, from the manifests that lhotse prepares of a corpus."""

import argparse
import dataclasses
import random
from collections.abc import Iterator

from lhotse import MonoCut

from toolkit.bin import run
from toolkit.data.manifests import write_cuts
from toolkit.data.pairs import recordings_with_supervisions


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("manifests", nargs="+", metavar="DIR", help="what lhotse prepare wrote")
    result.add_argument(
        "--corpus", required=True, help="as in the names of the manifests, such as librispeech"
    )
    result.add_argument("--parts", required=True, nargs="+", metavar="PART", help="such as train-clean-100")
    result.add_argument("--language", required=True, metavar="CODE", help="of all that is said, such as en")
    result.add_argument("--out", required=True, metavar="FILE", help="cuts to write")
    result.add_argument(
        "--shuffle", action="store_true", help="in random order, for training; holds all cuts in memory"
    )
    return result


def main(argv: list[str] | None = None) -> None:
    """Joins the parts of all folders."""
    args = parser().parse_args(argv)
    cuts = (
        cut
        for folder in args.manifests
        for part in args.parts
        for cut in whole_recordings(folder, args.corpus, part, args.language)
    )
    if args.shuffle:
        cuts = list(cuts)
        random.Random(0).shuffle(cuts)
    print(f"{args.out}: {write_cuts(args.out, cuts)} cuts")


def whole_recordings(folder: str, corpus: str, part: str, language: str) -> Iterator[MonoCut]:
    """The cuts of a part."""
    for recording, segments in recordings_with_supervisions(folder, corpus, part):
        # Lhotse notes languages by name, the toolkit by code.
        segments = [dataclasses.replace(segment, language=language) for segment in segments]
        yield MonoCut(recording.id, 0.0, recording.duration, 0, segments, recording=recording)


if __name__ == "__main__":
    run(main)

"""Prints which of several settings scored lowest; files are named <anything>_<setting>.json."""

import argparse
from pathlib import Path

from toolkit.bin import run
from toolkit.errors import UserError
from toolkit.files import read_json


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--key", required=True, help="figure to compare, as score --json names it")
    result.add_argument("files", nargs="+", type=Path, help="what score --json wrote")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    figures = {path: read_json(path).get(args.key) for path in args.files}
    for path, value in figures.items():
        if value is None:
            raise UserError(f"{path}: has no figure {args.key!r}")
    print(min(figures, key=figures.get).stem.rpartition("_")[2])


if __name__ == "__main__":
    run(main)

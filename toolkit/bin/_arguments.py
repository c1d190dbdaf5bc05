"""How the commands make their parsers, and the arguments that mean the same in several of them."""

import argparse
import math
from typing import Any

Options = argparse.ArgumentParser | argparse._ArgumentGroup
"""Whatever arguments can be added to."""


def command_parser(name: str, description: str, epilog: str, **settings: Any) -> argparse.ArgumentParser:
    """The parser of `python -m toolkit.bin.<name>`; the line breaks of the epilog are kept."""
    return argparse.ArgumentParser(
        prog=f"python -m toolkit.bin.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )


def add_recordings(options: Options, files: str = "audio files") -> None:
    """A manifest or audio files; `named_recordings` of toolkit/data takes either."""
    source = options.add_argument_group("recordings, one of")
    add_cuts(source)
    source.add_argument("files", nargs="*", metavar="AUDIO", help=files)


def add_cuts(options: Options, required: bool = False) -> None:
    options.add_argument(
        "--cuts", required=required, metavar="FILE", help="cuts (.jsonl, .jsonl.gz or a Shar folder)"
    )


def add_skipped(options: Options) -> None:
    options.add_argument(
        "--skipped", metavar="FILE", help="list of what is left out (default: OUTPUT.skipped.jsonl)"
    )


def skipped_path(output: str) -> str:
    """Where a command that writes one file lists what it left out.

    Beside the output, but under its name: outputs lie in experiment folders, whose skipped.jsonl is training's.
    """
    return f"{output}.skipped.jsonl"


def positive(text: str) -> float:
    """The type of arguments that are numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


def add_max_seconds(options: Options, effect: str) -> None:
    options.add_argument(
        "--max-seconds", type=float, default=60, metavar="S", help=f"{effect} (default: %(default)s)"
    )


def add_batch_seconds(options: Options, default: float) -> None:
    options.add_argument(
        "--batch-seconds",
        type=positive,
        default=default,
        metavar="S",
        help="audio computed together (default: %(default)s)",
    )


def add_device(options: Options, choices: str = "auto, cpu, cuda, cuda:1, ...") -> None:
    options.add_argument("--device", default="auto", help=f"{choices} (default: %(default)s)")

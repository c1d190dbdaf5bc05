"""Average the weights of several checkpoints into a model directory."""

import argparse
from pathlib import Path

from toolkit.bin import run
from toolkit.bin._arguments import command_parser

EPILOG = """
example:
  the mean of the last two checkpoints of an experiment, as a model directory of its own:
    python -m toolkit.bin.average --exp exp/asr --last 2 --output exp/asr/model-avg2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command_parser("average", __doc__, EPILOG)
    result.add_argument("--exp", required=True, metavar="DIR", help="experiment folder")
    result.add_argument(
        "--last", type=int, default=2, metavar="N", help="checkpoints to average (default: 2)"
    )
    result.add_argument("--output", required=True, metavar="DIR", help="model directory to write")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    import shutil

    from toolkit import checkpoint
    from toolkit.errors import UserError
    from toolkit.files import atomic_write

    folder = Path(args.exp) / "checkpoints"
    found = checkpoint.steps(folder)
    if not found:
        raise UserError(f"{folder}: found no checkpoint, expected those of an experiment")
    if not 1 <= args.last <= len(found):
        raise UserError(f"--last: found {args.last}, expected 1 to {len(found)}, the checkpoints in {folder}")
    source, target = Path(args.exp) / "model", Path(args.output)
    target.mkdir(parents=True, exist_ok=True)
    for path in [Path(args.exp) / "config.yaml", *source.glob("*")]:
        if path.is_file() and path.name not in ("model.safetensors", "RESULTS.json") and path.name[0] != ".":
            with atomic_write(target / path.name, "wb") as file, open(path, "rb") as content:
                shutil.copyfileobj(content, file)
    checkpoint.save(target / "model.safetensors", checkpoint.average(found[-args.last :]))
    print(f"mean of {', '.join(path.name for path in found[-args.last :])} in {target}")


if __name__ == "__main__":
    run(main)

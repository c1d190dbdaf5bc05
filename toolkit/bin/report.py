"""Draws an experiment (curves, DET plots, timelines, alignments) as one HTML page and prints its table."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.errors import UserError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from toolkit.report.description import Description

EPILOG = """examples:
  python -m toolkit.bin.report --exp exp/mini --out exp/mini/report.html
  python -m toolkit.bin.report --exp exp/mini --out report.html --config conf/report.yaml --data data/mini
  python -m toolkit.bin.report --exp exp/mini --out report.html --table table.md --strict

What the page shows is written in a description, a short YAML file with the title, the results for the
summary table and the sections, each of a kind:

  curves     loss, statistics and learning rate of experiments, overlaid (metrics.jsonl)
  wer        error rates with bootstrap intervals, kinds of error, examples (score wer --json, --details)
  det        DET curves and score histograms (trials, scores)
  timeline   who spoke when, reference and hypothesis (RTTM)
  alignment  spectrograms with the tokens below, to see and to hear (cuts, CTM)
  quality    quality of frame labels (JSON)
  times      how long the stages took (times.jsonl)

--print-keys shows all keys. Without --config the description is EXP/report.yaml; where there is none either,
the page shows what lies below EXP under the usual names. Files that are not there are shown as not run."""


class _PrintKeys(argparse.Action):
    """Like --help: prints, ends, and needs no other option."""

    def __call__(self, *_: object) -> None:
        from toolkit.report.description import reference

        print(reference(), end="")
        raise SystemExit(0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_parser("report", __doc__, EPILOG)
    top.add_argument(
        "--exp", metavar="DIR", type=Path, required=True, help="experiment folder; paths start from it"
    )
    top.add_argument("--out", metavar="FILE", type=Path, required=True, help="the page to write")
    top.add_argument("--config", metavar="FILE", type=Path, help="description of the page, YAML or JSON")
    top.add_argument("--data", metavar="DIR", type=Path, help='what "{data}" stands for in the description')
    top.add_argument("--title", metavar="TEXT", help="heading, instead of the description's")
    top.add_argument("--table", metavar="FILE", type=Path, help="also write the table as Markdown")
    top.add_argument(
        "--print-keys", action=_PrintKeys, nargs=0, help="show all keys of a description, and end"
    )
    top.add_argument("--strict", action="store_true", help="a file that is not there is an error")
    return top


def main(argv: list[str] | None = None) -> None:
    """Describes, builds, writes, prints the table."""
    args = parser().parse_args(argv)
    from toolkit.report import table
    from toolkit.report.build import build
    from toolkit.report.description import Places

    description = _description(args.exp, args.config)
    description.title = args.title or description.title
    places = Places(args.exp, args.data and args.data.resolve())
    report = build(description, places)
    if report.missing and args.strict:
        raise UserError(f"{places(report.missing[0])}: no such file ({len(report.missing)} such)")
    _write(args.out, report.html)
    if args.table:
        _write(args.table, table.as_markdown(report.rows))
    if report.rows:
        print(table.as_text(report.rows), end="\n\n")
    note = f" ({len(report.missing)} files not there yet)" if report.missing else ""
    print(f"report: {args.out}{note}")


def _description(exp: Path, config: Path | None) -> "Description":
    from toolkit.report import discover
    from toolkit.report.description import load

    if not exp.is_dir():
        raise UserError(f"{exp}: no such folder, expected an experiment")
    own = [path for path in (exp / "report.yaml", exp / "report.json") if path.is_file()]
    path = config or next(iter(own), None)
    return load(path) if path else discover.discover(exp)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


if __name__ == "__main__":
    run(main)

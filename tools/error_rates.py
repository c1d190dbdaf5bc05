"""Scores all searches on all test sets of an experiment, as recipes for recognition leave it, and makes a table.

Beside each `text` come wer.json, wer.txt and score.txt, as `python -m toolkit.bin.score wer` makes them.
"""

import argparse
import json
from contextlib import redirect_stdout
from pathlib import Path

from toolkit.bin import run, score
from toolkit.errors import UserError
from toolkit.files import atomic_write

KINDS = {"decode": "", "stream": ", streaming", "fusion": ""}
"""Folders of an experiment that hold SET/SEARCH/text, and what their rows are called besides."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--exp", required=True, type=Path, metavar="DIR", help="experiment folder")
    result.add_argument("--data", required=True, type=Path, metavar="DIR", help="where cuts_SET.jsonl.gz are")
    result.add_argument("--sets", required=True, nargs="+", metavar="SET", help="test sets, the columns")
    result.add_argument("--metric", choices=("wer", "cer"), default="wer", help="words or characters")
    result.add_argument("--out", required=True, type=Path, metavar="FILE", help="Markdown to write")
    return result


def main(argv: list[str] | None = None) -> None:
    """Scores, writes and prints the table."""
    args = parser().parse_args(argv)
    rows: dict[str, dict[str, str]] = {}
    for kind, addition in KINDS.items():
        for test_set in args.sets:
            for path in sorted(args.exp.glob(f"{kind}/{test_set}/*/text")):
                found = scored(path, args.data / f"cuts_{test_set}.jsonl.gz")
                rows.setdefault(path.parent.name + addition, {})[test_set] = cell(found, args.metric)
    if not rows:
        raise UserError(f"{args.exp}: found no texts, expected what the stages decode and fusion write")
    text = "\n".join(table(rows, args.sets, args.metric))
    with atomic_write(args.out) as file:
        file.write(text + "\n")
    print(text)


def scored(text: Path, cuts: Path) -> dict[str, float | None]:
    """What `score wer --json` says of a text."""
    folder = text.parent
    details = ["--json", str(folder / "wer.json"), "--details", str(folder / "wer.txt")]
    with atomic_write(folder / "score.txt") as file, redirect_stdout(file):
        score.main(["wer", "--ref", str(cuts), "--hyp", str(text), *details])
    return json.loads((folder / "wer.json").read_text(encoding="utf-8"))


def cell(found: dict[str, float | None], metric: str) -> str:
    """The rate in per cent, and its interval."""
    rate, low, high = (found[metric + end] for end in ("", "_low", "_high"))
    interval = "" if low is None or high is None else f" ({100 * low:.2f} to {100 * high:.2f})"
    return f"{100 * rate:.2f}{interval}"


def table(rows: dict[str, dict[str, str]], sets: list[str], metric: str) -> list[str]:
    """Lines of Markdown: a row for each search, a column for each test set."""
    head = ["search", *sets]
    lines = [f"{metric.upper()} in per cent, with 95 % intervals (bootstrap over utterances).", ""]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [
        f"| {' | '.join([name, *(row.get(column, '') for column in sets)])} |" for name, row in rows.items()
    ]
    return lines


if __name__ == "__main__":
    run(main)

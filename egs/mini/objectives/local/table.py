"""Writes the comparison of pretraining objectives as a table: recognition, linear probe, time of pretraining."""

import argparse
from pathlib import Path
from typing import Any

from toolkit.bin import run
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_json, read_jsonl
from toolkit.score.table import aligned

COLUMNS = ("pretraining", "WER %", "minus none", "p", "CER %", "phones %", "layer", "minutes")
NAMES = {
    "none": "none",
    "hubert": "HuBERT, cross-entropy",
    "cosine": "HuBERT, cosine",
    "mixing": "HuBERT, cross-entropy, mixing",
    "wav2vec2": "wav2vec 2.0",
    "best_rq": "BEST-RQ",
    "data2vec": "data2vec 2.0",
}


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--exp", type=Path, required=True, help="experiments of the recipe")
    result.add_argument("--out", type=Path, required=True, help="Markdown to write")
    result.add_argument("systems", nargs="+", choices=list(NAMES), help="rows of the table")
    return result


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    rows = [row(args.exp / name, name) for name in args.systems]
    rule = ["---"] + ["---:"] * (len(COLUMNS) - 1)
    with atomic_write(args.out) as file:
        for cells in (COLUMNS, rule, *rows):
            file.write(f"| {' | '.join(cells)} |\n")
    print(aligned(COLUMNS, rows))


def row(folder: Path, name: str) -> list[str]:
    """The cells of a system."""
    wer, probe = read_json(folder / "decode" / "wer.json"), read_json(folder / "probe.json")
    change, p = "-", "-"
    if name != "none":
        change = with_interval(wer, "wer_difference", "+.1f")
        p = f"{wer['p_one_sided']:.4f}"
    return [
        NAMES[name],
        with_interval(wer, "wer", ".1f"),
        change,
        p,
        f"{100 * wer['cer']:.1f}",
        with_interval(probe, "accuracy", ".1f"),
        str(probe["layer"]),
        minutes(folder / "pretrain" / "metrics.jsonl") if name != "none" else "-",
    ]


def with_interval(figures: dict[str, Any], key: str, form: str) -> str:
    """A share in percent, with its 95 % interval."""
    value, low, high = (100 * figures[name] for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def minutes(path: Path) -> str:
    """Time of training, from its last line of metrics."""
    rows = [row for row in read_jsonl(path) if "elapsed" in row]
    if not rows:
        raise UserError(f"{path}: has no line with the time of training")
    return f"{rows[-1]['elapsed'] / 60:.1f}"


if __name__ == "__main__":
    run(main)

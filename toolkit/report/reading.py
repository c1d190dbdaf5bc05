"""Reading what other commands wrote: figures as JSON, logs of training, times of stages; faults are named."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.files import read_json, read_jsonl


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class Content:
    """A JSON object with the path it came from, so that what is missing can be named."""

    path: Path
    keys: Mapping[str, Any]

    def number(self, key: str) -> float:
        """The number under a key; null counts as nan."""
        value = self.keys.get(key, "nothing")
        if value is not None and not is_number(value):
            raise UserError(f"{self.path}: {key}: found {value!r:.40}, expected a number")
        return math.nan if value is None else float(value)

    def items(self, key: str, kind: type = dict) -> list:
        """The list of objects of one type under a key."""
        value = self.keys.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise UserError(f"{self.path}: {key}: found {value!r:.40}, expected a list")
        return value


def kind_of(content: Any) -> str | None:
    """What a JSON document holds: "wer", "eer", "der", "quality", or None for anything else."""
    if not isinstance(content, dict):
        return None
    if {"num_clusters", "pnmi"} <= content.keys():
        return "quality"
    return content["metric"] if content.get("metric") in ("wer", "eer", "der") else None


def read_content(path: Path, *kinds: str) -> Content:
    """Reads what a scoring command wrote with --json, or a label quality, if it is one of `kinds`."""
    content = read_json(path)
    if kind_of(content) not in kinds:
        found = f"figures of the kind {kind_of(content)!r}" if kind_of(content) else "no figures"
        raise UserError(f"{path}: found {found}, expected {' or '.join(kinds)} as `score --json` writes it")
    return Content(path, content)


def read_log(path: Path) -> list[dict]:
    """Rows of a metrics.jsonl, in order of steps.

    A run that was killed and resumed has written some steps twice: the last row counts.
    """
    rows: dict[tuple[float, str], dict] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        fine = isinstance(row, dict) and is_number(row.get("step")) and row.get("split") in ("train", "valid")
        if not fine:
            expected = '"step": number and "split": "train" or "valid"'
            raise UserError(f"{path}: record {number}: found {row!r:.60}, expected {expected}")
        rows[row["step"], row["split"]] = row
    return [rows[key] for key in sorted(rows)]


def read_times(path: Path) -> dict[str, float]:
    """Stage -> seconds of a times.jsonl; a stage that ran twice keeps its place and its last duration."""
    seconds = {}
    for number, row in enumerate(read_jsonl(path), 1):
        stage, value = (row.get("stage"), row.get("seconds")) if isinstance(row, dict) else (None, None)
        if not isinstance(stage, str) or not is_number(value) or not 0 <= value < math.inf:
            expected = '{"stage": name, "seconds": number}'
            raise UserError(f"{path}: record {number}: found {row!r:.60}, expected {expected}")
        seconds[stage] = float(value)
    if not seconds:
        raise UserError(f"{path}: found no stage, expected at least one line")
    return seconds

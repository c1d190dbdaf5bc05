"""What the fault tests share: rows of their tables, making bad files, running a command as users do."""

import gzip
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from toolkit.bin import run
from toolkit.files import read_jsonl, write_jsonl

Content = str | bytes | Callable[[Path], Any]
"""Of a file: text, bytes, or a function that makes what shall lie at a path."""


@dataclass(frozen=True)
class Fault:
    """A kind of bad input: a command that must refuse it."""

    name: str
    command: str
    expect: str
    """Regular expression that the one line of complaint must match."""
    files: Mapping[str, Content] = field(default_factory=dict)
    """What lies in the current folder, beside what the fixture `desk` puts there."""


class Result(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """The current folder of one test."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture

    def put(self, files: Mapping[str, Content]) -> None:
        """Makes files."""
        for name, content in files.items():
            put(self.folder / name, content)

    def run(self, command: str) -> Result:
        """Runs `toolkit.bin.<command>` in this process as `python -m` would; quotes are as in a shell."""
        name, *arguments = shlex.split(command)
        self.monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        self.capsys.readouterr()
        code = 0
        try:
            run(import_module(f"toolkit.bin.{name}").main)
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *self.capsys.readouterr())

    def works(self, command: str) -> Result:
        """Runs a command that must do its work."""
        result = self.run(command)
        assert result.code == 0, result.err
        assert "error" not in result.err
        return result

    def flaws(self, fault: Fault) -> list[str]:
        """Makes the fault's files and runs its command; how it failed to complain in one line and leave no mess."""
        self.put(fault.files)
        found = flaws(self.run(fault.command), fault)
        return found + [f"left behind: {path}" for path in self.folder.rglob(".*.tmp")]

    def skipped(self, path: str) -> dict[str, str]:
        """The list of skipped recordings at a path: id to reason."""
        rows = list(read_jsonl(self.folder / path))
        assert all(set(row) == {"id", "path", "reason"} for row in rows)
        reasons = {row["id"]: row["reason"] for row in rows}
        assert len(reasons) == len(rows)
        return reasons


def flaws(result: Result, fault: Fault) -> list[str]:
    """What a refusal lacks of exit code 2 and one line on standard error that says what is wrong."""
    command = fault.command.split()[0]
    # argparse shows how the command is used before it complains.
    complaints = [line for line in result.err.splitlines() if not line.startswith(("usage:", " "))]
    complaint = "\n".join(complaints)
    wanted = {
        "exit code 2": result.code == 2,
        "one line": len(complaints) == 1,
        "no traceback": "Traceback" not in result.err,
        "the command": re.match(rf"(python -m toolkit\.bin\.)?{command}( \w+)?: error: ", complaint),
        fault.expect: re.search(fault.expect, complaint),
        "less than 600 characters": len(complaint) < 600,
    }
    return [f"expected {what}, found {result}" for what, holds in wanted.items() if not holds]


def put(path: Path, content: Content) -> None:
    """Makes what shall lie at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")


def nothing(path: Path) -> None:
    """No file."""


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir()


def unreadable(path: Path) -> None:
    """A file that its owner may not read."""
    path.write_text("secret")
    path.chmod(0)
    skip_where_all_is_allowed(path)


def closed_folder(path: Path) -> None:
    """A folder that its owner may not look into."""
    path.mkdir(mode=0)
    skip_where_all_is_allowed(path)


def skip_where_all_is_allowed(path: Path) -> None:
    """Permissions do not hold for root."""
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")


def link_to_nowhere(path: Path) -> None:
    """A dangling link."""
    path.symlink_to(path.parent / "nowhere")


def audio(
    samples: Callable[[np.ndarray], np.ndarray] = lambda tone: tone,
    rate: int = 16_000,
    subtype: str = "PCM_16",
    keep: float = 1.0,
) -> Callable[[Path], None]:
    """An audio file: a second of a tone, changed by `samples`; the share `keep` of its bytes is left."""

    def make(path: Path) -> None:
        import soundfile

        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate) + 0.05 * np.sin(np.arange(rate) ** 1.5)
        soundfile.write(path, samples(tone), rate, subtype)
        os.truncate(path, int(keep * path.stat().st_size))

    return make


def start_of(name: str, share: float = 0.5) -> Callable[[Path], None]:
    """The first bytes of another file, as an interrupted copy leaves it."""

    def make(path: Path) -> None:
        content = Path(name).read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return make


def copy_of(name: str, changes: Mapping[str, Content | None]) -> Callable[[Path], None]:
    """A copy of another folder with some files made anew, or left out where there is None."""

    def make(path: Path) -> None:
        shutil.copytree(name, path)
        for inside, content in changes.items():
            (path / inside).unlink(missing_ok=True)
            if content is not None:
                put(path / inside, content)

    return make


def manifest(*changes: Callable[[list[dict]], Any]) -> Callable[[Path], None]:
    """The good cuts, as a list of JSON objects that each function changes."""

    def make(path: Path) -> None:
        rows = list(read_jsonl("cuts.jsonl.gz"))
        for change in changes:
            change(rows)
        write_jsonl(path, rows)

    return make


def cuts_and(more: str | bytes) -> Callable[[Path], None]:
    """The six good cuts and more lines."""

    def make(path: Path) -> None:
        good = gzip.decompress(Path("cuts.jsonl.gz").read_bytes())
        path.write_bytes(good + (more.encode() if isinstance(more, str) else more))

    return make


def cut_with(**values: Any) -> Callable[[Path], None]:
    """The good cuts, the second one with other values."""
    return manifest(lambda rows: rows[1].update(values))


def supervision_with(**values: Any) -> Callable[[Path], None]:
    """The good cuts, the supervision of the second one with other values."""
    return manifest(lambda rows: rows[1]["supervisions"][0].update(values))


def json_lines(*rows: Any) -> str:
    """A JSON document a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)

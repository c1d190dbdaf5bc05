"""What a run says: lines for people, metrics.jsonl, TensorBoard events, and the list of skipped recordings."""

import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.files import write_jsonl
from toolkit.progress import line
from toolkit.train.distributed import World

SUMS = ("amount", "padded")


class Meter:
    """Sums of losses and statistics since the last report, each kept where it is computed so that nothing waits."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor | float] = {}

    def add(self, values: dict[str, Tensor | float]) -> None:
        """Adds one batch's sums."""
        for name, value in values.items():
            value = value.detach().double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self, world: World) -> dict[str, float]:
        """Every sum over the weight, over all ranks; the meter starts again at zero.

        Returns:
            Names to means; "amount" and "padded" (of data, without and with padding) stay sums.
        """
        # A rank whose batches were all unreadable, or that had none, lacks the task's statistics.
        names = world.union(self.sums)
        sums = torch.stack(
            [torch.as_tensor(self.sums.get(n, 0.0), dtype=torch.float64, device=world.device) for n in names]
        )
        totals = dict(zip(names, world.sum(sums).tolist(), strict=True))
        self.sums = {}
        weight = totals.pop("weight")
        return {n: total if n in SUMS else total / max(weight, 1e-12) for n, total in totals.items()}


class Log:
    """The files and lines of one run; the main process writes them, but every one lists what it skipped."""

    def __init__(self, folder: Path, world: World, update: int) -> None:
        self.folder = folder
        self.world = world
        self.metrics_path = folder / "metrics.jsonl"
        self.skipped_path = folder / "skipped.jsonl"
        self.skipped: set[str] = set()
        self.skipped_read = 0
        self.said = 0
        self.start = time.monotonic()
        self.writer = None
        if world.is_main:
            from torch.utils.tensorboard import SummaryWriter

            rows = {row["id"]: row for row in whole_rows(self.skipped_path)}
            write_jsonl(self.skipped_path, rows.values())
            # What comes after this update will be done again.
            kept = [row for row in whole_rows(self.metrics_path) if row["step"] <= update]
            write_jsonl(self.metrics_path, kept)
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)

    def say(self, text: str) -> None:
        """A line for people, on the terminal and in log.txt."""
        if self.world.is_main:
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr)
            print(text, flush=True)
            with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def progress(self, done: int, before: int, total: int) -> None:
        """Redraws the bar on a terminal."""
        if self.world.is_main and sys.stderr.isatty():
            spent = time.monotonic() - self.start
            print("\r\033[K" + bar(done, before, total, spent), end="", file=sys.stderr, flush=True)

    def metrics(self, row: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same numbers for TensorBoard."""
        if self.writer:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if name not in ("step", "split") and value is not None:
                    self.writer.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def skip(self, rows: list[dict[str, str]]) -> None:
        """Lists recordings that could not be used, once each, whichever processes met them."""
        if all(row["id"] in self.skipped for row in rows):
            return
        with open(self.skipped_path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # Until the file is closed.
            # What other processes have listed since the last look.
            file.seek(self.skipped_read)
            self.skipped.update(json.loads(text)["id"] for text in file)
            new = [row for row in rows if row["id"] not in self.skipped]
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in new)
            self.skipped.update(row["id"] for row in new)
            self.skipped_read = file.tell()
        # Said ever more rarely where there are many.
        if new and len(self.skipped) >= 2 * self.said:
            self.said = len(self.skipped)
            self.say(
                f"skipped {new[0]['id']}: {new[0]['reason']} ({len(self.skipped)} so far, see skipped.jsonl)"
            )

    def close(self) -> None:
        """Writes what is still in memory."""
        if self.writer:
            self.writer.close()


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, up to one that a dying process left unfinished; none if there is no file."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                rows.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return rows


def bar(done: int, before: int, total: int, spent: float) -> str:
    """Progress with an ETA from the speed since this start, `before` updates having been done earlier."""
    rate = spent / max(1, done - before)
    return line("train", done, total, rate * done)

"""What can go wrong in an update, found without making the device wait, and told with advice."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.errors import UserError, is_out_of_memory
from toolkit.files import write_json


@dataclass
class Pending:
    """An update whose numbers are on their way to the host; looked at one update later."""

    signals: Tensor
    """(3,) weight, stop requests, loss; summed over all ranks."""
    norm: Tensor
    """Norm of the gradients before clipping."""
    losses: list[Tensor]
    """This rank's loss of each batch."""
    batches: list[Any]
    """This rank's batches."""
    update: int
    """Number of the update, from 0."""
    check_norm: bool
    """False in fp16, where the loss scale deals with infinite gradients."""

    def __post_init__(self) -> None:
        self.host = torch.cat([self.signals, self.norm.detach().double().reshape(1)]).to(
            "cpu", non_blocking=True
        )
        self.arrived = None
        if self.signals.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def read(self) -> tuple[float, bool, bool]:
        """The weight, whether a rank asked to stop, and whether every number is finite."""
        if self.arrived:
            self.arrived.synchronize()
        weight, stop, loss, norm = self.host.tolist()
        return weight, stop > 0, math.isfinite(loss) and (math.isfinite(norm) or not self.check_norm)


def write_batch(folder: Path, name: str, batch: Any, **facts: Any) -> Path:
    """Writes aside what a batch held and how large it was."""
    path = folder / "failed" / f"{name}.json"
    write_json(
        path,
        {
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            **facts,
            **batch.facts(),
        },
    )
    return path


def non_finite(pending: Pending, folder: Path, rank: int) -> UserError:
    """Writes the guilty batches aside; returns the error to raise."""
    bad = [b for b, loss in zip(pending.batches, pending.losses, strict=True) if not torch.isfinite(loss)]
    paths = [
        write_batch(
            folder,
            f"update-{pending.update}-rank-{rank}-{index}",
            batch,
            problem="loss or gradient not finite",
        )
        for index, batch in enumerate(bad or pending.batches)
    ]
    return UserError(
        f"update {pending.update}: the loss or its gradient is not finite; its batch is described in {paths[0]}; lower "
        "optim.lr, lengthen the warm-up, lower train.clip_norm, or use train.precision=bf16 or fp32, and start again: "
        "training goes on from the last checkpoint"
    )


@contextmanager
def explained_memory(batch: Any, folder: Path, update: int, rank: int) -> Iterator[None]:
    """Watches over work on a batch.

    Raises:
        UserError: memory is used up; the batch is written aside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        path = write_batch(folder, f"update-{update}-rank-{rank}", batch, problem="out of memory")
        whole, row = batch.limits
        raise UserError(
            f"update {update}: out of memory with {batch.size}; the batch is described in {path}; lower {whole} (and "
            f"raise train.accumulation to keep the update's size) or {row}"
        ) from None


def nothing_to_learn(update: int, updates: int, folder: Path) -> UserError:
    """The error to raise when batch after batch has no weight."""
    return UserError(
        f"update {update}: found nothing to learn from in the last {updates} updates, expected data that can be "
        f"read and targets that fit them; {folder / 'skipped.jsonl'} lists what was skipped and why"
    )

"""The processes of a run, as torchrun starts them; one process is the simplest case."""

import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from toolkit.errors import UserError

LOCK = ".lock"
"""File of a folder that a run holds locked."""

# While the main process prepares (reads all transcripts to learn a tokenizer, say), the others wait for it, and the
# 10 minutes that PyTorch would give it on GPUs can be too few. This is no watch over processes that die: torchrun is.
PATIENCE = timedelta(hours=12)


@dataclass
class World:
    """Which process this is and where it computes."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    @property
    def is_main(self) -> bool:
        """True for the process that writes files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def union(self, names: Iterable[str]) -> list[str]:
        """The names that any process has, sorted, the same on all."""
        everywhere = [list(names)] * self.size
        if self.size > 1:
            dist.all_gather_object(everywhere, everywhere[0])
        return sorted(set().union(*everywhere))

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def distributed() -> Iterator[World]:
    """Joins the processes that torchrun started, and takes leave of them at the end.

    Raises:
        UserError: there are more processes than GPUs on this machine.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _own_device()
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(rank, size, device)
    finally:
        if size > 1:
            dist.destroy_process_group()


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"process {number} (from 0) of this machine: found {count} GPU(s), expected one for each process; start "
            f"no more, as with torchrun --nproc-per-node {count}"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


@contextmanager
def sole_owner(folder: Path, patience: float = 30.0) -> Iterator[None]:
    """Keeps a second run out of a folder; the lock goes with the process, however it ends.

    Args:
        folder: of an experiment or of labels; it exists.
        patience: seconds to wait for a run that is just ending.

    Raises:
        UserError: another process still works there.
    """
    with open(folder / LOCK, "w") as file:
        until, told = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserError(
                        f"{folder}: another process works here; expected one run a folder"
                    ) from None
                if not told:
                    print(f"{folder}: waiting for another process to end", file=sys.stderr, flush=True)
                told = True
                time.sleep(0.2)
        yield

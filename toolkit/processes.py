"""Processes: how many cores they have, and that they do not outlive the one that started them."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Ends this process when the one that started it is killed (Linux only; elsewhere nothing happens).

    Args:
        parent: process id of that one, if known; then this process also ends if it comes too late to be told.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent not in (None, os.getppid()):
            os.kill(os.getpid(), signal.SIGKILL)


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_torchrun() -> None:
    """Ends this process when the torchrun that started it is killed, so that no orphan goes on writing.

    To be called first of all: an orphan that is still importing would join the processes of the next torchrun.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()

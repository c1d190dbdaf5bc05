"""Work on shards in several processes, in order, with few of them in memory at a time."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Protocol

import torch

from toolkit.errors import UserError
from toolkit.processes import die_with_parent

Build = Callable[[int], Any]
"""Makes the tool of a process from the process's number; with several jobs it is pickled."""


class Shard(Protocol):
    """A piece of work; with several jobs it is pickled."""

    def run(self, tool: Any) -> int:
        """Does it, with what `build` made; returns the number of cuts."""


_tool: Any = None
"""That of this process, or the UserError that says why there is none."""


def run_shards(shards: Iterable[Shard], build: Build, jobs: int) -> Iterator[int]:
    """Runs shards in several processes.

    Args:
        shards: read as they are needed.
        build: makes what they are run with, once a process.
        jobs: processes; 1 works in this one.

    Yields:
        What each shard's `run` returns, in order.

    Raises:
        UserError: a process died, or one was raised in it.
    """
    if jobs == 1:
        tool = build(0)
        yield from (shard.run(tool) for shard in shards)
        return
    context = get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(jobs):
        numbers.put(number)
    threads = max(1, torch.get_num_threads() // jobs)
    start = (build, numbers, threads, os.getpid())
    with ProcessPoolExecutor(jobs, context, _start_process, start) as pool:
        pending: deque[Future[int]] = deque()
        try:
            for shard in shards:
                pending.append(pool.submit(_run, shard))
                if len(pending) > 2 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "jobs: a process died, perhaps for want of memory; start again with fewer, done work is kept"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_process(build: Build, numbers: Any, threads: int, parent: int) -> None:
    global _tool
    die_with_parent(parent)
    # Ctrl-C reaches the whole group; shards that are under way get done, and the parent ends the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        _tool = build(numbers.get())
    except UserError as error:
        # Raised here it would show a traceback and break the pool; the first shard raises it.
        _tool = error


def _run(shard: Shard) -> int:
    if isinstance(_tool, UserError):
        raise _tool
    return shard.run(_tool)

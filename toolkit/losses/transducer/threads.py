"""Threads that each work on utterances of their own, so that no operation has to be shared out among threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

WORTH_A_THREAD = 256
"""Rows of hundreds of numbers; for fewer, another thread costs more than it saves."""

Result = TypeVar("Result")


def in_threads(work: Callable[[list[int]], Result], sizes: list[int]) -> list[Result]:
    """Gives each of PyTorch's CPU threads a share of the items.

    Many operations on little data take far longer with two threads each than with one, above all if another process
    is on the machine, as the threads wait for each other after each operation. The shares depend on the sizes and the
    number of threads only, so that what is added up comes in the same order every time.

    Args:
        work: does the items of a share; without gradients and without autocast.
        sizes: rows of each item.

    Returns:
        What `work` returned for each share.
    """
    threads = torch.get_num_threads()
    count = max(1, min(threads, len(sizes), sum(sizes) // WORTH_A_THREAD))
    if count == 1:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return [work(list(range(len(sizes))))]
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        least = loads.index(min(loads))
        shares[least].append(item)
        loads[least] += sizes[item]
    inference = torch.is_inference_mode_enabled()

    def run(share: list[int]) -> Result:
        torch.set_num_threads(threads // count)
        with torch.inference_mode(inference), torch.no_grad():
            return work(share)

    try:
        return list(_pool(count).map(run, shares))
    finally:
        # What a thread sets for itself also holds for all threads that begin later.
        torch.set_num_threads(threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept, as each new thread would allocate buffers for its products."""
    return ThreadPoolExecutor(threads)


# A forked process has the pool, but not its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)

"""How fast batches are read, and how much of them is padding."""

import time
from itertools import islice
from pathlib import Path
from typing import Any

from toolkit import config
from toolkit.tasks.ssl import SslConfig, SslTask


def loader_task(cuts: str, overrides: list[str]) -> SslTask:
    """The pretraining task that reads these cuts; overrides such as "--data.sampler.max_duration=600" change it."""
    # An objective that uses no labels, so that any cuts will do.
    raw = {"objective": {"name": "best_rq"}, "data": {"train": cuts}}
    resolved = config.build(SslConfig, config.apply_overrides(raw, overrides), "command line")
    return SslTask(resolved, Path(), seed=0)


def measure_loader(task: SslTask, batches: int) -> dict[str, Any]:
    """Reads batches as training would, after a first one that opens everything.

    Args:
        task: with the data to read in its configuration; its model is built, to know its frames.
        batches: how many are timed.

    Returns:
        Audio seconds a second, share of padding, audio seconds a batch.
    """
    task.build_model()
    stream = iter(task.training_batches((0, 0, 0), 0, 0, 1, False))
    next(stream)
    start = time.perf_counter()
    read = [batch for _, batch in islice(stream, batches)]
    spent = time.perf_counter() - start
    audio = sum(batch.seconds for batch in read)
    return {
        "audio_per_second": audio / spent,
        "padding": 1 - audio / sum(batch.padded_seconds for batch in read),
        "batch_seconds": audio / batches,
        "workers": task.config.data.sampler.num_workers,
    }

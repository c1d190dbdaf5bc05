"""How fast batches are read, and how much of them is padding."""

import time
from itertools import islice
from typing import Any

from toolkit.tasks.ssl import SslTask


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

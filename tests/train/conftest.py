"""The loop sets a few things for the whole process; each test gets them back as they were."""

import signal
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """Threads, deterministic algorithms and the handler of SIGTERM."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    signal.signal(signal.SIGTERM, handler)

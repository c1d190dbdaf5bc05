"""Settings for all tests: equal everywhere, no display; commands that a test starts find the package."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A test may start `python` or a recipe in another folder: let it find this Python and this package.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["PYTHONPATH"] = str(ROOT)
os.environ["MPLBACKEND"] = "Agg"
for name in ("TOOLKIT_EXP", "TOOLKIT_DATA", "TOOLKIT_COMMAND"):
    os.environ.pop(name, None)

# Slow machines are no failure, and a failure must come again in the next run.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds torch before a test and its fixtures: no result depends on which tests ran before in the process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def process_settings() -> Iterator[None]:
    """Puts back what the train loop sets for the whole process: threads, deterministic algorithms, SIGTERM."""
    import torch

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    signal.signal(signal.SIGTERM, handler)

"""Compiled pretraining: the same losses and gradients, and one program for all lengths and updates."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.models.test_invariance import FRONT, SMALL
from tests.train.test_objectives import CASES, in_two_processes, train, weights
from toolkit.config import build
from toolkit.tasks.ssl import SslConfig, SslTask
from toolkit.train import loop
from toolkit.train.arithmetic import compiled
from toolkit.train.distributed import World, distributed

pytestmark = pytest.mark.usefixtures("process_settings", "compiler_settings")

STEPS = [(12000, 0), (14000, 1), (13250, 5000)]
"""Samples of the longest utterance, and updates done. The waveform front end makes as many frames as there are labels
of each: after the stacks, which are not compiled, a difference would be a program more."""
FAST = [("hubert", "conformer", "fbank"), ("hubert", "zipformer", "fbank")]
SLOW = [
    *((objective, "conformer", "fbank") for objective in CASES if objective != "hubert"),
    *(("hubert", encoder, front) for encoder in SMALL for front in FRONT),
    ("wav2vec2", "transformer", "waveform"),
]
PROGRAMS = {"zipformer": 5}
"""Most programs, where it is not one: the stacks are not compiled, nor the convolutions on filter banks."""


@pytest.fixture
def compiler_settings() -> Iterator[None]:
    """Forgets what was compiled before, and puts back the compiler's settings."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch({"specialize_float": False, "optimize_ddp": True}):
        with torch._inductor.config.patch({"layout_optimization": True}):
            yield
    torch._dynamo.reset()


def make(objective: str, encoder: str, front: str, folder: Path) -> nn.Module:
    """A small model; of the same weights each time."""
    settings = SMALL[encoder][front][0] | {"name": encoder}
    if encoder == "zipformer":
        settings |= {"output_downsampling": 1}
    if encoder == "transformer":
        settings |= {"layer_drop": 0.3}
    raw = {
        "speech": {"frontend": FRONT[front][0] | {"name": front}, "encoder": settings},
        "objective": CASES[objective] | ({"decoder_groups": 4} if objective == "data2vec" else {}),
    }
    torch.manual_seed(0)
    return SslTask(build(SslConfig, raw, "test"), folder, 0).build_model().train()


def batch(size: int) -> tuple[torch.Tensor, ...]:
    """Waveforms, lengths, seeds and labels of three utterances."""
    generator = torch.Generator().manual_seed(size)
    lengths = torch.tensor([size, size - 1500, size - 3000])
    valid = torch.arange(size) < lengths[:, None]
    waveforms = 0.3 * torch.randn(3, size, generator=generator) * valid
    labels = torch.randint(14, (3, size // 320, 1), generator=generator)
    return waveforms, lengths, torch.tensor([5, 6, 7]), labels


def step(model: nn.Module, forward: Any, size: int, update: int) -> dict[str, torch.Tensor]:
    """Loss, statistics and gradients of an update."""
    model.set_update(update)
    model.zero_grad()
    torch.manual_seed(update)
    loss, stats, weight = forward(*batch(size))
    (loss / weight).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss, "weight": weight} | stats | gradients


@pytest.mark.parametrize(
    ("objective", "encoder", "front"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in FAST)],
)
def test_one_program_that_does_the_same(
    objective: str, encoder: str, front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that both draw the same random numbers: those of GPUs, also in the parts that are not compiled.
    monkeypatch.setattr("toolkit.nn.dropout.eager_on_cpu", lambda x: False)
    model, other = (make(objective, encoder, front, tmp_path) for _ in range(2))
    program = compiled(model, "aot_eager")
    programs = []
    for size, update in STEPS:
        # Compiled code takes the way of GPUs.
        with patch("torch.compiler.is_compiling", lambda: True):
            expected = step(other, other, size, update)
        found = step(model, program, size, update)
        assert found.keys() == expected.keys() and len(found) > 30
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
        programs.append(counters["stats"]["unique_graphs"])
    assert 1 <= programs[1] <= PROGRAMS.get(encoder, 1)
    assert programs[2] == programs[1]


def rank_of_two(rank: int, port: int, folder: Path) -> None:
    """A process that trains beside another one."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with distributed() as world:
        train_compiled(folder, world, os.environ["BACKEND"])


def train_compiled(folder: Path, world: World, backend: str, **changes: Any) -> None:
    """A short training that leaves checkpoints."""
    with patch.object(loop, "compiled", partial(compiled, backend=backend)):
        train("hubert", folder, world, compile=True, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_two_ranks_equal_accumulation_over_two_batches(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DistributedDataParallel stands around the program."""
    monkeypatch.setenv("BACKEND", backend)
    in_two_processes(rank_of_two, tmp_path / "two")
    train_compiled(tmp_path / "one", World(0, 1, torch.device("cpu")), backend, accumulation=2)
    found, expected = (weights(tmp_path / name, 4) for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5)

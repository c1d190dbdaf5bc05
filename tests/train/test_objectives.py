"""What every pretraining objective owes the train loop: ranks that agree, runs that go on, and that it learns."""

import multiprocessing
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.small import ENCODER
from toolkit import checkpoint
from toolkit.config import build, to_dict
from toolkit.data.synthetic import synthetic_cuts
from toolkit.models.output import EncoderOutput
from toolkit.ssl.model import SslModel
from toolkit.ssl.registry import OBJECTIVES
from toolkit.tasks.ssl import SslConfig, SslTask
from toolkit.train.distributed import World, distributed
from toolkit.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("process_settings")

MASK = {"mask": {"prob": 0.4, "span": 4}}
LABELS = MASK | {"name": "hubert", "num_classes": 14}
CASES: dict[str, dict[str, Any]] = {
    "hubert": LABELS,
    "hubert, cosine": LABELS | {"head": "cosine", "final_dim": 16},
    "wav2vec2": MASK | {"name": "wav2vec2", "entries": 64, "negatives": 20, "target_dropout": 0.0},
    "best_rq": MASK | {"name": "best_rq", "codebooks": 2, "entries": 16},
    "data2vec": {
        "name": "data2vec",
        "top_layers": 2,
        "masks": 2,
        "mask": {"prob": 0.3, "span": 4},
        "decay": 0.95,
        "decoder_dim": 32,
        "decoder_layers": 1,
    },
}
LEARN = {"wav2vec2": (90, 3e-3), "data2vec": (80, 6e-3)}
"""Updates and learning rate with which an objective learns a batch, where they are not (60, 5e-3)."""


def make(name: str, folder: Path, dropout: float, **train: Any) -> tuple[SslTask, Any]:
    """The task with a small encoder, and its configuration."""
    raw = {
        "data": {"train": "synthetic:12", "sampler": {"max_duration": 3, "num_buckets": 1}},
        "crop_seconds": 1.0,
        "speech": {"encoder": ENCODER | {"num_layers": 2, "subsampling": 2, "dropout": dropout}},
        "objective": CASES[name],
        "optim": {"lr": 1e-3, "schedule": {"name": "constant"}},
        "train": {"max_updates": 4, "checkpoint_every": 2, "log_every": 2, "threads": 1} | train,
    }
    settings = build(SslConfig, raw, "test")
    return SslTask(settings, folder / "model", 0), settings


def train(name: str, folder: Path, world: World, **changes: Any) -> None:
    """A short training; leaves checkpoints."""
    folder.mkdir(exist_ok=True)
    task, settings = make(name, folder, 0.1, **changes)
    Trainer(task, settings.train, settings.optim, to_dict(settings), 0, folder, world).run()


def rank_of_two(rank: int, port: int, folder: Path) -> None:
    """A process that trains every objective beside another one."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with distributed() as world:
        for name in CASES:
            train(name, folder / name, world)


def in_two_processes(work: Callable[[int, int, Path], None], folder: Path) -> None:
    """Calls a function with rank, port and folder in each of two processes, to a good end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, a folder for each objective."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(rank_of_two, folder)
    return folder


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left that accumulates over two batches."""
    folder = tmp_path_factory.mktemp("one")
    for name in CASES:
        train(name, folder / name, World(0, 1, torch.device("cpu")), accumulation=2)
    return folder


def weights(folder: Path, update: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.step_path(folder / "checkpoints", update))[0]


def test_all_are_looked_at() -> None:
    assert {case["name"] for case in CASES.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_accumulation_over_two_batches(name: str, one_rank: Path, two_ranks: Path) -> None:
    expected, found = (weights(folder / name, 4) for folder in (one_rank, two_ranks))
    before = weights(one_rank / name, 2)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            found[key], tensor, rtol=0, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}"
        )
    moved = [
        key for key in before if key.startswith("model.") and not torch.equal(before[key], expected[key])
    ]
    assert len(moved) > 20
    teacher = any(key.startswith("model.objective.teacher.") for key in moved)
    assert teacher == (CASES[name]["name"] == "data2vec")


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_goes_on_ends_the_same(name: str, one_rank: Path, tmp_path: Path) -> None:
    """From a checkpoint in the middle, as after a kill: all that counts is in it, the teacher too."""
    half = checkpoint.step_path(one_rank / name / "checkpoints", 2)
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(half, tmp_path / "checkpoints")
    train(name, tmp_path, World(0, 1, torch.device("cpu")), accumulation=2)
    found, expected = weights(tmp_path, 4), weights(one_rank / name, 4)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def deaf(model: SslModel) -> SslModel:
    """The model, whose heads get zeros in place of what the encoder makes of the audio."""
    encode = model.speech.encoder.encode

    def nothing(*arguments: Any) -> EncoderOutput:
        output = encode(*arguments)
        return output._replace(frames=torch.zeros_like(output.frames))

    model.speech.encoder.encode = nothing
    return model


def learned(name: str, folder: Path, hears: bool) -> float:
    """The loss after a batch was learned, over its last updates."""
    updates, lr = LEARN.get(name, (60, 5e-3))
    task, _ = make(name, folder, 0.0)
    torch.manual_seed(0)
    model = task.build_model().train()
    if not hears:
        deaf(model)
    batch = task.collate(synthetic_cuts(8), random.Random(0))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for update in range(updates):
        task.before_update(model, update)
        loss, _, weight = task.loss(model, batch)
        optimizer.zero_grad()
        (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        task.after_update(model)
        losses.append(loss.item() / weight.item())
    return sum(losses[-5:]) / 5


@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls_below_that_of_frequencies(name: str, tmp_path: Path) -> None:
    """The same heads, trained without what the encoder makes of the audio, can learn but how frequent targets are."""
    assert learned(name, tmp_path, hears=True) < 0.7 * learned(name, tmp_path, hears=False)

"""One update of every task: what it changes, what it leaves, and that it does not wait for the GPU."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.config import build, to_dict
from toolkit.tasks import TASKS, task_class
from toolkit.train.distributed import World
from toolkit.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("process_settings")

ENCODER = {
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_dim": 16,
    "kernel_size": 3,
    "subsampling": 2,
    "subsampling_channels": 2,
}
OWN = {
    "asr": {"mask": {"prob": 0.3}, "spec_augment": {"prob": 1.0}},
    "ssl": {"objective": {"num_classes": 14}},
    "speaker": {"head": {"hidden_dim": 8, "attention_dim": 4, "embedding_dim": 8}},
    "lm": {
        "data": {"train": "synthetic:6", "sampler": {"max_characters": 60, "max_length": 50}},
        "network": {"dim": 16, "num_layers": 1},
    },
    "diarization": {
        "chunk_seconds": 1,
        "head": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3},
    },
}


def ready(name: str, folder: Path, device: str, precision: str) -> tuple[Trainer, Iterator[tuple]]:
    """The loop of a small model of a task, and its first batch again and again."""
    common = {"train": {"accumulation": 2, "average_decay": 0.9, "precision": precision}}
    if name != "lm":
        common["data"] = {"train": "synthetic:6", "sampler": {"max_duration": 8, "num_buckets": 1}}
        common["speech"] = {"encoder": ENCODER}
    cls: Any = task_class(name, "test")
    settings = build(cls.Config, common | OWN[name], "test")
    task = cls(settings, folder / "model", 0)
    task.prepare()
    world = World(0, 1, torch.device(device))
    trainer = Trainer(task, settings.train, settings.optim, to_dict(settings), 0, folder, world)
    return trainer, repeat(next(iter(trainer._training_batches())))


@pytest.mark.parametrize("name", TASKS)
def test_an_update_changes_weights_and_no_buffer(name: str, tmp_path: Path) -> None:
    """Ranks exchange gradients alone: a model with running statistics would need more."""
    trainer, batches = ready(name, tmp_path, "cpu", "fp32")
    model = trainer.state.model
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    pending = trainer._update(batches)
    weight, _, finite = pending.read()
    assert weight > 0 and finite
    moved = [not torch.equal(p, weights[name]) for name, p in model.named_parameters() if p.requires_grad]
    assert sum(moved) > len(moved) / 2
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", TASKS)
def test_an_update_does_not_wait_for_the_gpu(
    name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In recognition but for CTC itself: PyTorch's copies the lengths to the GPU and waits, whatever it is given."""
    if name == "asr":
        monkeypatch.setattr(
            "torch.nn.functional.ctc_loss", lambda log_probs, *lengths, **options: -log_probs.mean((0, 2))
        )
    trainer, batches = ready(name, tmp_path, "cuda", precision)
    for _ in range(2):
        trainer._update(batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = trainer._update(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    weight, _, finite = pending.read()
    assert weight > 0 and finite

"""A task of numbers instead of speech, for looking at the loop alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.config import to_dict
from toolkit.data.batch import AudioBatch
from toolkit.data.sampling import Position
from toolkit.optim.build import AdamWConfig, OptimConfig
from toolkit.optim.schedule import LinearSchedule
from toolkit.train.config import TrainConfig
from toolkit.train.distributed import World
from toolkit.train.loop import Trainer

WIDTH = 4
PER_EPOCH = 7


def batch(total: int, kind: type[AudioBatch] = AudioBatch) -> AudioBatch:
    """The batch of that number: 1 to 5 rows of numbers; "waveforms" are what the model sees."""
    generator = torch.Generator().manual_seed(total)
    rows = 1 + total * 3 % 5
    return kind(
        ids=[f"cut{total}-{row}" for row in range(rows)],
        waveforms=torch.randn(rows, WIDTH, generator=generator),
        lengths=torch.full((rows,), WIDTH),
        seeds=torch.arange(rows),
        seconds=float(rows),
        padded_seconds=float(2 * rows),
    )


class ToyModel(nn.Module):
    """A line through the origin and beyond, with dropout if wanted."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.speech = nn.Linear(WIDTH, 3)
        self.head = nn.Sequential(nn.Tanh(), nn.Dropout(dropout), nn.Linear(3, 1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
        return self.head(self.speech(x))[:, 0]


class ToyTask:
    """Learns to sum up. `spoil` may change a batch or raise; it is called before each loss in training."""

    def __init__(
        self, spoil: Callable[[int, AudioBatch], None] = lambda update, batch: None, dropout: float = 0.0
    ) -> None:
        self.update, self.spoil, self.dropout = 0, spoil, dropout
        self.make_batch = batch
        self.num_validation = 2

    def build_model(self) -> ToyModel:
        return ToyModel(self.dropout)

    def before_update(self, model: nn.Module, update: int) -> None:
        self.update = update

    def after_update(self, model: nn.Module) -> None:
        """Nothing follows the weights here."""

    def initialize(self, model: nn.Module, say: Callable[[str], None]) -> None:
        say("nothing to begin with")

    def loss(self, model: nn.Module, batch: AudioBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        if model.training:
            self.spoil(self.update, batch)
        error = model(batch.waveforms) - batch.waveforms.sum(1)
        return error.square().sum(), {"error": error.abs().sum()}, torch.tensor(len(error))

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        return {}

    def training_batches(
        self, start: tuple, consumed: int, rank: int, world_size: int, pin_memory: bool
    ) -> Iterator[tuple[Position, AudioBatch]]:
        assert start[2] <= consumed
        total = consumed
        while True:
            yield Position(total // PER_EPOCH, total % PER_EPOCH, total), self.make_batch(total + rank)
            total += world_size

    def validation_batches(self, rank: int, world_size: int, pin_memory: bool) -> list:
        return [(Position(0, i, i), batch(1000 + i)) for i in range(rank, self.num_validation, world_size)]

    def largest_batches(self, count: int) -> list[AudioBatch]:
        return [batch(total) for total in range(count)]

    def lr_factor(self, name: str) -> float:
        return 0.5 if self.is_pretrained(name) else 1.0

    def is_pretrained(self, name: str) -> bool:
        return name.startswith("speech.")


def infinite_gradient(task: ToyTask, when: Callable[[int], bool]) -> ToyTask:
    """The task with nothing added to its loss, but infinity to its gradient, in some updates."""
    plain = task.loss

    def loss(model: nn.Module, batch: AudioBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        value, stats, weight = plain(model, batch)
        if model.training and when(task.update):
            value = value + (model.head[2].bias * 0).sqrt().sum()
        return value, stats, weight

    task.loss = loss
    return task


def toy_trainer(
    folder: Path,
    task: ToyTask | None = None,
    lr: float = 0.05,
    device: str = "cpu",
    optimizer: Any = None,
    **settings: Any,
) -> Trainer:
    """The loop over a toy task, as one process."""
    train = TrainConfig(**{"max_updates": 12, "log_every": 4, "checkpoint_every": 4} | settings)
    optim = OptimConfig(lr, optimizer or AdamWConfig(weight_decay=0.1), LinearSchedule(warmup_updates=3))
    resolved = {"train": to_dict(train), "optim": to_dict(optim)}
    world = World(0, 1, torch.device(device))
    folder.mkdir(exist_ok=True)
    return Trainer(task or ToyTask(), train, optim, resolved, 7, folder, world)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}

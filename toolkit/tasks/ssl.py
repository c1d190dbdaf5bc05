"""Self-supervised pretraining on frame labels."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.config import choice
from toolkit.data.batch import SslBatch, pad, read_audio
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.optim.build import OptimConfig
from toolkit.ssl.labels import load_labels
from toolkit.ssl.model import SslModel
from toolkit.ssl.registry import OBJECTIVES
from toolkit.tasks.base import DataConfig, InitConfig, Task
from toolkit.train.config import TrainConfig


@dataclass
class SslConfig:
    """Self-supervised pretraining."""

    task: Literal["ssl"] = "ssl"
    """What is learned."""
    seed: int = 0
    """Of weights, order, masks and dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cuts with frame labels (`python -m toolkit.bin.label`)."""
    crop_seconds: float = 15.6
    """Longer cuts are cropped to this, at a random place."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder."""
    objective: Any = choice(OBJECTIVES, "hubert")
    """What is masked and predicted."""
    init: InitConfig = field(default_factory=InitConfig)
    """A pretrained encoder to go on from."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""

    def __post_init__(self) -> None:
        if self.crop_seconds <= 0:
            raise ValueError(f"crop_seconds must be positive, got {self.crop_seconds}")


class SslTask(Task):
    """Cuts with labels -> masked encoder -> objective."""

    Config = SslConfig

    def build_model(self) -> SslModel:
        """An encoder with the objective's heads."""
        speech = SpeechEncoder(self.config.speech)
        self.frame_shift = speech.frame_shift
        objective = OBJECTIVES[self.config.objective.name](self.config.objective, speech)
        self.uses_labels = objective.uses_labels
        return SslModel(speech, objective)

    def initialize(self, model: SslModel, say: Callable[[str], None]) -> None:
        """As for any task; a teacher takes over what the encoder has."""
        super().initialize(model, say)
        model.objective.initialize(model.speech)

    def after_update(self, model: torch.nn.Module) -> None:
        """Lets a teacher follow."""
        model.objective.after_update(model.speech)

    @property
    def read_seconds(self) -> float:
        """Those of a crop."""
        return self.config.crop_seconds

    def collate(self, cuts: CutSet, rng: random.Random) -> SslBatch:
        """Audio, cropped where it is long, and the labels of its frames."""
        cuts = CutSet.from_cuts(self._crop(cut, rng) for cut in cuts)
        cuts, audio = read_audio(cuts, rng)
        if not self.uses_labels:
            return SslBatch(**audio)
        rows = [self._labels(cut) for cut in cuts] or [torch.zeros(1, 1, dtype=torch.int64)]
        return SslBatch(**audio, labels=pad(rows, -1))

    def loss(self, model: torch.nn.Module, batch: SslBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The objective's loss, summed over masked frames."""
        return model(batch.waveforms, batch.lengths, batch.seeds, batch.labels, batch.views)

    def _crop(self, cut: Cut, rng: random.Random) -> Cut:
        if cut.duration <= self.config.crop_seconds:
            return cut
        # Whole frames, so that labels and audio stay in step.
        last = int((cut.duration - self.config.crop_seconds) / self.frame_shift)
        offset = rng.randint(0, last) * self.frame_shift
        return cut.truncate(offset=offset, duration=self.config.crop_seconds, preserve_id=True)

    def _labels(self, cut: Cut) -> Tensor:
        array = (cut.custom or {}).get("labels")
        if array is None:
            raise UserError(
                f"{self.config.data.train}: cut {cut.id} has no labels; python -m toolkit.bin.label makes them"
            )
        if abs(array.frame_shift - self.frame_shift) > 1e-6:
            raise UserError(
                f"{self.config.data.train}: labels of cut {cut.id} come every {array.frame_shift} s, expected "
                f"{self.frame_shift} s as the encoder's frames"
            )
        labels = torch.from_numpy(load_labels(cut).astype("int64"))
        classes, most = self.config.objective.num_classes, int(labels.max())
        if most >= classes:
            raise UserError(
                f"objective.num_classes: found {classes}, but cut {cut.id} has label {most}; expected at least "
                f"{most + 1}"
            )
        return labels.view(len(labels), -1)

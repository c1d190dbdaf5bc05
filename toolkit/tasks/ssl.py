"""Self-supervised pretraining."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.config import choice
from toolkit.data.batch import SslBatch, pad, read_audio
from toolkit.data.mixing import ViewConfig, student_views
from toolkit.errors import UserError
from toolkit.models.adaptation import NoneConfig
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.optim.build import OptimConfig
from toolkit.ssl.labels import load_labels
from toolkit.ssl.model import SslModel
from toolkit.ssl.quality import MAX_DIFFERENCE
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
    """Cuts; for the objective `hubert` with frame labels (`python -m toolkit.bin.label`)."""
    crop_seconds: float = 15.6
    """Longer cuts are cropped to this, at a random place."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder."""
    objective: Any = choice(OBJECTIVES, "hubert")
    """What is masked and predicted."""
    view: ViewConfig = field(default_factory=ViewConfig)
    """What the encoder hears in training in place of the waveforms from which the targets come."""
    init: InitConfig = field(default_factory=InitConfig)
    """A pretrained encoder to go on from."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""

    def __post_init__(self) -> None:
        if self.crop_seconds <= 0:
            raise ValueError(f"crop_seconds must be positive, got {self.crop_seconds}")
        if not isinstance(self.init.adaptation, NoneConfig):
            raise ValueError("init.adaptation is for tasks with a target, expected none here")


class SslTask(Task):
    """Cuts with labels -> masked encoder -> objective."""

    Config = SslConfig

    def build_model(self) -> SslModel:
        """An encoder with the objective's heads."""
        speech = self.build_speech()
        check_frames(speech)
        self.frame_shift, self.num_frames = speech.frame_shift, speech.output_lengths
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
        return self._read(cuts, rng)[1]

    def collate_training(self, cuts: CutSet, rng: random.Random) -> SslBatch:
        """The same, and what the encoder hears instead."""
        good, batch = self._read(cuts, rng)
        config, skipped = self.config.view, batch.skipped
        views = student_views(good, batch.waveforms, batch.lengths, config, rng, skipped)
        return replace(batch, views=views)

    def _read(self, cuts: CutSet, rng: random.Random) -> tuple[list[Cut], SslBatch]:
        """The cuts that can be used, and a batch of them."""
        labels: dict[int, Tensor] = {}

        def problem(cut: Cut) -> str | None:
            frames, span = self.num_frames(cut.num_samples), self.config.objective.mask.span
            if frames < span:
                return f"too short: {frames} frames, and a masked span has {span} (objective.mask.span)"
            if self.uses_labels:
                # A crop has labels up to its very end, where an encoder whose convolutions do not pad has no frames.
                labels[id(cut)] = self._labels(cut)[: frames + MAX_DIFFERENCE]
                return self._beyond_the_end(cut) or wrong_number(labels[id(cut)], frames)
            return None

        cropped = CutSet.from_cuts(self._crop(cut, rng) for cut in cuts)
        good, audio = read_audio(cropped, rng, problem, silence)
        if not self.uses_labels:
            return good, SslBatch(**audio)
        streams = len(self.config.objective.streams)
        rows = [labels[id(cut)] for cut in good] or [torch.zeros(1, streams, dtype=torch.int64)]
        return good, SslBatch(**audio, labels=pad(rows, -1))

    def loss(self, model: torch.nn.Module, batch: SslBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The objective's loss, summed over masked frames."""
        return model(batch.waveforms, batch.lengths, batch.seeds, batch.labels, batch.views, batch.padded)

    def _crop(self, cut: Cut, rng: random.Random) -> Cut:
        if cut.duration <= self.config.crop_seconds:
            return cut
        # Whole frames, so that labels and audio stay in step.
        last = int((cut.duration - self.config.crop_seconds) / self.frame_shift)
        offset = rng.randint(0, last) * self.frame_shift
        return cut.truncate(offset=offset, duration=self.config.crop_seconds, preserve_id=True)

    def _beyond_the_end(self, cut: Cut) -> str | None:
        # What is read of labels is never more than the cut has; so those are looked at as they were made.
        array = cut.custom["labels"]
        # Noise that was added makes further tracks.
        recording = (cut.tracks[0].cut if hasattr(cut, "tracks") else cut).recording
        frames = self.num_frames(round((recording.duration - array.start) * cut.sampling_rate))
        if array.shape[0] <= frames + MAX_DIFFERENCE:
            return None
        return f"labels: {array.shape[0]} frames, expected at most {frames + MAX_DIFFERENCE} up to the recording's end"

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
        labels = labels[:, None] if labels.dim() == 1 else labels
        found, expected = labels.shape[1], self.config.objective.streams
        if found != len(expected):
            raise UserError(
                f"objective.num_classes: found {len(expected)} number(s), but cut {cut.id} has {found} label(s) a "
                "frame; expected a number for each"
            )
        most = labels.amax(dim=0).tolist() if len(labels) else []
        for classes, label in zip(expected, most, strict=False):
            if label >= classes:
                raise UserError(
                    f"objective.num_classes: found {classes}, but cut {cut.id} has label {label}; expected at least "
                    f"{label + 1}"
                )
        return labels


def wrong_number(labels: Tensor, frames: int) -> str | None:
    """Why labels (T, C) do not belong to an utterance of so many frames."""
    if abs(len(labels) - frames) <= MAX_DIFFERENCE:
        return None
    least, most = max(0, frames - MAX_DIFFERENCE), frames + MAX_DIFFERENCE
    return f"labels: {len(labels)} frames, expected {least} to {most}"


def silence(samples: np.ndarray) -> str | None:
    """Why there is nothing to learn from samples (S,) that are all the same."""
    if samples.min() < samples.max():
        return None
    return f"silent: every sample is {samples[0]:g}"


def check_frames(speech: SpeechEncoder) -> None:
    """Looks whether an encoder has an output frame for every frame that can be hidden.

    Raises:
        UserError: it has not.
    """
    rate = speech.config.frontend.sample_rate
    outputs, latents = speech.output_lengths(10 * rate), speech.latent_lengths(10 * rate)
    if outputs != latents:
        raise UserError(
            f"speech.encoder: found {outputs} output frames in 10 s, expected {latents}, one for each that can be "
            "hidden (in a zipformer: output_downsampling: 1)"
        )

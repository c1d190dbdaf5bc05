"""Diarization: learns who of a few local speakers talks in each frame of a chunk.

Dimensions: B chunks, T frames, K local speakers, C powerset classes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.data.batch import DiarizationBatch, pad, read_audio
from toolkit.errors import UserError
from toolkit.models.base import SHORTEST_SECONDS, SpeechConfig
from toolkit.models.diarization import DiarizationHeadConfig, DiarizationModel
from toolkit.nn.masks import valid_mask
from toolkit.optim.build import OptimConfig
from toolkit.tasks.base import DataConfig, InitConfig, Task, crop, inner
from toolkit.train.config import TrainConfig


@dataclass
class DiarizationConfig:
    """Diarization of chunks; `python -m toolkit.bin.diarize` puts them together."""

    task: Literal["diarization"] = "diarization"
    """What is learned."""
    seed: int = 0
    """Of weights, order, chunks and dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cuts of whole meetings, with a supervision for each turn; the sampler sees stretches of two chunks."""
    chunk_seconds: float = 8.0
    """Length of a chunk: at a random place of each stretch in training, side by side in validation."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder; as in the pretrained model, if there is one."""
    init: InitConfig = field(default_factory=InitConfig)
    """The pretrained encoder."""
    head: DiarizationHeadConfig = field(default_factory=DiarizationHeadConfig)
    """From encoder layers to sets of speakers."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""

    def __post_init__(self) -> None:
        if self.chunk_seconds < SHORTEST_SECONDS:
            raise ValueError(f"chunk_seconds must be at least {SHORTEST_SECONDS}, got {self.chunk_seconds}")


class DiarizationTask(Task):
    """Meetings -> chunks -> powerset classes -> permutation-free loss; see `loss` for the statistics."""

    Config = DiarizationConfig

    def build_model(self) -> DiarizationModel:
        """A segmentation model."""
        model = DiarizationModel(self.build_speech(), self.config.head)
        # Nothing is masked here, and a parameter without gradient would stall training on several ranks.
        model.speech.encoder.mask_embedding.requires_grad_(False)
        self.frame_shift = model.frame_shift
        return model

    @property
    def read_seconds(self) -> float:
        """Those of a chunk."""
        return self.config.chunk_seconds

    def training_cuts(self, epoch: int = 0) -> CutSet:
        """Overlapping stretches of two chunks, so that a random chunk of each covers every place alike."""
        chunk = self.config.chunk_seconds
        return CutSet(Stretches(super().training_cuts(epoch), 2 * chunk, chunk))

    def validation_cuts(self) -> CutSet:
        """Chunks, one after the other."""
        chunk = self.config.chunk_seconds
        return CutSet(Stretches(super().validation_cuts(), chunk, chunk))

    def collate(self, cuts: CutSet, rng: random.Random) -> DiarizationBatch:
        """Chunks and who talks when in them."""
        cuts = CutSet.from_cuts(crop(cut, self.config.chunk_seconds, rng) for cut in cuts)
        cuts, audio = read_audio(cuts, rng)
        speakers = self.config.head.num_speakers
        rows = [activity(cut, speakers, self.frame_shift) for cut in cuts] or [torch.zeros(1, speakers) > 0]
        return DiarizationBatch(**audio, targets=pad(rows, False))

    def loss(
        self, model: torch.nn.Module, batch: DiarizationBatch
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Powerset loss, summed over frames; miss, false_alarm, confusion and speech are speakers a frame.

        (miss + false_alarm + confusion) / speech is the diarization error rate within chunks.
        """
        powerset = inner(model).powerset
        log_probs, lengths = model(batch.waveforms, batch.lengths)
        frames = log_probs.shape[1]
        targets = torch.nn.functional.pad(batch.targets, (0, 0, 0, frames - batch.targets.shape[1]))
        mask = valid_mask(lengths, frames)
        loss, order = powerset.loss(log_probs, targets, mask)
        found = powerset.to_activity(log_probs.argmax(-1)) * mask[..., None]
        truth = targets.gather(2, order[:, None].expand(targets.shape)) * mask[..., None]
        return loss, errors(truth.float(), found), mask.sum()


class Stretches:
    """Stretches of long cuts, read anew by every iteration: `size` seconds, from every `step` seconds on.

    The last stretch of a cut ends with it and may be shorter.
    """

    def __init__(self, cuts: CutSet, size: float, step: float) -> None:
        self.cuts, self.size, self.step = cuts, size, step

    def __iter__(self) -> Iterator[Cut]:
        for cut in self.cuts:
            # Counted in samples: in seconds, a rounding error would make one stretch more, of nothing.
            rate, total = cut.sampling_rate, cut.num_samples
            size, step = round(self.size * rate), round(self.step * rate)
            beyond_the_first = max(0, total - size)
            for index in range(1 + -(-beyond_the_first // step)):
                offset = index * step
                duration = min(size, total - offset) / rate
                yield cut.truncate(offset=offset / rate, duration=duration).with_id(f"{cut.id}-{index}")


def activity(cut: Cut, num_speakers: int, frame_shift: float) -> Tensor:
    """Who talks in the middle of each frame.

    Args:
        cut: a chunk with a supervision for each turn.
        num_speakers: K; if there are more, those who talk most are taken.
        frame_shift: in seconds.

    Returns:
        (T, K) bool, those who talk most first.
    """
    frames = max(1, -int(-cut.duration // frame_shift))
    middles = (torch.arange(frames, dtype=torch.float64) + 0.5) * frame_shift
    rows: dict[str, Tensor] = {}
    for turn in cut.supervisions:
        if not turn.speaker:
            raise UserError(
                f"cut {cut.id}: supervision {turn.id} has no speaker, expected one for every turn"
            )
        talking = (turn.start <= middles) & (middles < turn.end)
        rows[turn.speaker] = rows.get(turn.speaker, torch.zeros(frames, dtype=torch.bool)) | talking
    most = sorted(rows.values(), key=lambda row: -int(row.sum()))[:num_speakers]
    silent = [torch.zeros(frames, dtype=torch.bool)] * (num_speakers - len(most))
    return torch.stack([*most, *silent], dim=1)


def errors(truth: Tensor, found: Tensor) -> dict[str, Tensor]:
    """The parts of the diarization error, and the speech, summed over frames; (B, T, K) float activities."""
    spoken, heard = truth.sum(-1), found.sum(-1)
    return {
        "miss": (spoken - heard).relu().sum(),
        "false_alarm": (heard - spoken).relu().sum(),
        "confusion": (torch.minimum(spoken, heard) - (truth * found).sum(-1)).sum(),
        "speech": spoken.sum(),
    }

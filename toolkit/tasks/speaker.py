"""Speaker verification: learns embeddings by telling the training speakers apart."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.utils import fastcopy
from torch import Tensor

from toolkit.data.augment import change_speed
from toolkit.data.batch import SpeakerBatch, read_audio
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_text
from toolkit.losses.margin import angular_margin_softmax, margin_at
from toolkit.models.base import SpeechConfig
from toolkit.models.speaker import SpeakerHeadConfig, SpeakerModel
from toolkit.optim.build import OptimConfig
from toolkit.tasks.base import DataConfig, InitConfig, Task, crop
from toolkit.train.config import TrainConfig


@dataclass
class MarginConfig:
    """Additive angular margin softmax."""

    scale: float = 32.0
    """What cosines are multiplied by."""
    final: float = 0.2
    """Margin in radians, once it is fully grown."""
    start_update: int = 0
    """The margin is 0 up to this update."""
    end_update: int = 0
    """The margin is fully grown from this update on."""
    easy: bool = False
    """No margin for utterances farther than 90 degrees from their speaker."""

    def __post_init__(self) -> None:
        if self.scale <= 0 or not 0 <= self.final < 1.57:
            raise ValueError(f"scale must be positive, final in [0, 1.57), got {self.scale} and {self.final}")
        if not 0 <= self.start_update <= self.end_update:
            raise ValueError(
                f"expected 0 <= start_update <= end_update, got {self.start_update} and {self.end_update}"
            )


@dataclass
class SpeakerConfig:
    """Speaker verification."""

    task: Literal["speaker"] = "speaker"
    """What is learned."""
    seed: int = 0
    """Of weights, order, crops and dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cuts of one speaker each; validation needs other cuts of the same speakers."""
    speed_speakers: list[float] = field(default_factory=list)
    """Speed factors, such as [0.9, 1.1], at which every training speaker is heard as one more speaker."""
    crop_seconds: float = 3.0
    """Longer cuts are cropped to this, at a random place; shorter ones are taken whole."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder; as in the pretrained model, if there is one."""
    init: InitConfig = field(default_factory=InitConfig)
    """The pretrained encoder."""
    head: SpeakerHeadConfig = field(default_factory=SpeakerHeadConfig)
    """From encoder layers to embeddings."""
    margin: MarginConfig = field(default_factory=MarginConfig)
    """The loss."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""

    def __post_init__(self) -> None:
        if self.crop_seconds <= 0:
            raise ValueError(f"crop_seconds must be positive, got {self.crop_seconds}")
        if any(not 0.3 <= factor <= 3 or factor == 1 for factor in self.speed_speakers):
            raise ValueError(f"speed_speakers must be from 0.3 to 3 and not 1, got {self.speed_speakers}")


class SpeakerTask(Task):
    """Cuts with speakers -> embeddings -> angular margin softmax; see `loss` for the statistics."""

    Config = SpeakerConfig

    @property
    def read_seconds(self) -> float:
        """Those of a crop."""
        return self.config.crop_seconds

    def training_cuts(self, epoch: int = 0) -> CutSet:
        """The training data at its own and at other speeds."""
        return CutSet(WithSpeeds(super().training_cuts(epoch), self.config.speed_speakers))

    def prepare(self) -> None:
        """Numbers the training speakers; a line of speakers.txt each."""
        path = self.model_dir / "speakers.txt"
        if not path.exists():
            speakers = sorted({speaker_of(cut, self.config.data.train) for cut in self.training_cuts()})
            if len(speakers) < 2:
                raise UserError(
                    f"{self.config.data.train}: found {len(speakers)} speaker, expected 2 or more"
                )
            with atomic_write(path) as file:
                file.writelines(f"{speaker}\n" for speaker in speakers)

    def build_model(self) -> SpeakerModel:
        """A speaker model for the speakers of the model directory."""
        text = read_text(self.model_dir / "speakers.txt", "the speakers that the model was trained on")
        speakers = text.removesuffix("\n").split("\n")
        self.numbers = {speaker: number for number, speaker in enumerate(speakers)}
        model = SpeakerModel(self.build_speech(), self.config.head, len(speakers))
        # Nothing is masked here, and a parameter without gradient would stall training on several ranks.
        model.speech.encoder.mask_embedding.requires_grad_(False)
        return model

    def collate(self, cuts: CutSet, rng: random.Random) -> SpeakerBatch:
        """Random crops and their speakers."""
        cuts = CutSet.from_cuts(crop(cut, self.config.crop_seconds, rng) for cut in cuts)
        cuts, audio = read_audio(cuts, rng)
        rows = [self._number(cut) for cut in cuts] or [0]
        return SpeakerBatch(**audio, speakers=torch.tensor(rows))

    def loss(self, model: torch.nn.Module, batch: SpeakerBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Margin softmax, summed over utterances; "accuracy" is the share that the model names rightly.

        Validation is without a margin, so that its loss can be compared over the updates.
        """
        config = self.config.margin
        margin = 0.0
        if model.training:
            margin = margin_at(self.update, config.final, config.start_update, config.end_update)
        cosines = model(batch.waveforms, batch.lengths)
        loss = angular_margin_softmax(cosines, batch.speakers, margin, config.scale, config.easy)
        right = (cosines.argmax(-1) == batch.speakers).sum()
        count = loss.new_full((), len(cosines))
        return loss, {"accuracy": right, "margin": margin * count}, count

    def _number(self, cut: Cut) -> int:
        speaker = speaker_of(cut, "the training data")
        if speaker not in self.numbers:
            raise UserError(f"cut {cut.id}: found speaker {speaker!r}, expected one of the training data")
        return self.numbers[speaker]


class WithSpeeds:
    """Each cut, then the same at each speed under another speaker's name; read anew by every iteration.

    Pitch and resonances move with the speed, so that a voice becomes another one.
    """

    def __init__(self, cuts: CutSet, factors: list[float]) -> None:
        self.cuts, self.factors = cuts, factors

    def __iter__(self) -> Iterator[Cut]:
        for cut in self.cuts:
            yield cut
            for factor in self.factors:
                changed = change_speed(cut, factor).with_id(f"{cut.id}@{factor}")
                name = f"{speaker_of(cut, 'the training data')}@{factor}"
                yield changed.map_supervisions(lambda segment, name=name: fastcopy(segment, speaker=name))


def speaker_of(cut: Cut, source: str) -> str:
    """The one speaker of a cut; raises UserError if there is none, or more than one."""
    found = {segment.speaker for segment in cut.supervisions}
    if len(found) != 1 or None in found:
        raise UserError(
            f"{source}: cut {cut.id} has speakers {sorted(map(str, found))}, expected exactly one"
        )
    return found.pop()

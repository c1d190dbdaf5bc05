"""A speech encoder alone, as another program trained it: for its features, and for other tasks to begin with."""

from dataclasses import dataclass, field
from typing import Literal

from toolkit.models.base import SpeechConfig, SpeechEncoder, SpeechModel
from toolkit.tasks.base import Task


@dataclass
class EncoderConfig:
    """A speech encoder with nothing on top."""

    task: Literal["encoder"] = "encoder"
    """What is learned: nothing; this describes a model that is there."""
    seed: int = 0
    """Of weights that are not read."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder."""


class EncoderTask(Task):
    """Builds a model that has an encoder and no head; it cannot be trained."""

    Config = EncoderConfig

    def build_model(self) -> SpeechModel:
        """The encoder alone."""
        model = SpeechModel()
        model.speech = SpeechEncoder(self.config.speech)
        return model

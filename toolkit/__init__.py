"""A speech processing toolkit: self-supervised pretraining, recognition, speaker verification and diarization."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.models.base import SpeechModel
    from toolkit.models.features import PretrainedFeatures

__version__ = "0.1.0"


def load(folder: str | Path, device: str = "cpu") -> "SpeechModel":
    """The model of a model directory (`exp/x/model`), in eval mode.

    >>> model = load("exp/pretrain/model")  # doctest: +SKIP
    >>> output = model.features(waveforms, lengths)  # doctest: +SKIP

    Raises:
        toolkit.errors.UserError: not a model directory, or its weights are damaged or of another model.
    """
    from toolkit.tasks.load import load_model

    return load_model(folder, device)


def pretrained(folder: str | Path, frozen: bool = True, device: str = "cpu") -> "PretrainedFeatures":
    """The encoder of a model directory as a module for models of your own: a learned weighted sum of its layers.

    >>> features = pretrained("exp/pretrain/model")  # doctest: +SKIP
    >>> frames, frame_lengths = features(waveforms, lengths)  # doctest: +SKIP

    Args:
        folder: a model directory of any task.
        frozen: False to fine-tune the encoder as well.
        device: where the module is put.

    Raises:
        toolkit.errors.UserError: as `load` does.
    """
    from toolkit.models.features import PretrainedFeatures

    return PretrainedFeatures(load(folder, device).speech, frozen).to(device)

"""A speech processing toolkit: self-supervised pretraining, recognition, speaker verification and diarization."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.models.base import SpeechModel

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

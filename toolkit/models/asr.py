"""Speech recognition with CTC.

Dimensions: B utterances, S samples, T frames, V symbols.
"""

from typing import NamedTuple

from torch import Tensor, nn

from toolkit.models.base import Augment, SpeechEncoder, SpeechModel
from toolkit.nn.dropout import Dropout


class CtcOutput(NamedTuple):
    """Log-probabilities of each frame."""

    log_probs: Tensor
    """(B, T, V) float32; symbol 0 is the blank."""
    lengths: Tensor
    """(B,) valid frames."""


class CtcModel(SpeechModel):
    """An encoder and a linear layer over the symbols."""

    def __init__(self, speech: SpeechEncoder, num_symbols: int, dropout: float) -> None:
        super().__init__()
        self.speech = speech
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(speech.dim, num_symbols))

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        mask: Tensor | None = None,
        augment: Augment | None = None,
        channels: Tensor | None = None,
    ) -> CtcOutput:
        """(B, S) samples and (B,) lengths to log-probabilities; the rest is as in `SpeechEncoder.forward`."""
        output = self.speech(waveforms, lengths, mask, augment, channels)
        return CtcOutput(self.head(output.frames).float().log_softmax(dim=-1), output.lengths)

"""An encoder and the objective that teaches it.

Dimensions: B utterances, S samples, T frames.
"""

from torch import Tensor, nn

from toolkit.models.base import SpeechEncoder, SpeechModel
from toolkit.models.output import EncoderOutput


class SslModel(SpeechModel):
    """Hides frames from the encoder as the objective wants it."""

    def __init__(self, speech: SpeechEncoder, objective: nn.Module) -> None:
        super().__init__()
        self.speech = speech
        self.objective = objective

    def forward(self, waveforms: Tensor, lengths: Tensor, seeds: Tensor) -> tuple[EncoderOutput, Tensor]:
        """Encodes (B, S) waveforms with a mask drawn from (B,) seeds; returns the output and the mask (B, T)."""
        frames = self.speech.output_lengths(waveforms.shape[1])
        mask = self.objective.mask(self.speech.output_lengths(lengths), frames, seeds)
        return self.speech(waveforms, lengths, mask), mask

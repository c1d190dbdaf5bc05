"""The contract of every encoder, and the speech encoder that all tasks share.

Dimensions: B batch, S samples, T encoder frames, F features, D encoder width, L layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.config import choice
from toolkit.models.output import EncoderOutput
from toolkit.models.registry import ENCODERS, FRONTENDS

SHORTEST_SECONDS = 0.1
"""Less audio may give an encoder no frame at all."""
Augment = Callable[[Tensor, Tensor], Tensor]
"""(B, T', F) features and their (B,) lengths to changed features of the same shape."""


@dataclass
class SpeechConfig:
    """From the waveform to encoder frames."""

    frontend: Any = choice(FRONTENDS, "fbank")
    """What turns samples into features."""
    encoder: Any = choice(ENCODERS, "conformer")
    """What turns features into representations."""


class SpeechEncoder(nn.Module):
    """Front end and encoder: waveforms in, representations of every layer out.

    The output for an utterance does not depend on what shares its batch.

    Attributes:
        dim: D, the width of every layer's output.
        num_layers: L.
        frame_shift: seconds from one output frame to the next.
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = FRONTENDS[config.frontend.name](config.frontend)
        self.encoder = ENCODERS[config.encoder.name](config.encoder, self.frontend.dim)
        self.dim: int = self.encoder.dim
        self.num_layers: int = self.encoder.num_layers
        self.frame_shift: float = self.frontend.frame_shift * self.encoder.subsampling

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        mask: Tensor | None = None,
        augment: Augment | None = None,
    ) -> EncoderOutput:
        """Encodes a padded batch.

        Args:
            waveforms: (B, S) samples in [-1, 1] at the front end's rate.
            lengths: (B,) int64 valid samples.
            mask: (B, T) bool, True where the encoder's input frame is replaced by the learned mask embedding.
            augment: what is done to the features before the encoder sees them.
        """
        features, feature_lengths = self.frontend(waveforms, lengths)
        if augment is not None:
            features = augment(features, feature_lengths)
        return self.encoder(features, feature_lengths, mask)

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Frames for a number of samples, or for each of (B,) int64.

        Numbers stay numbers, so that the shape of a mask needs no look into a tensor.
        """
        return self.encoder.output_lengths(self.frontend.output_lengths(lengths))


class SpeechModel(nn.Module):
    """A model of any task: a `speech` encoder and something on top of it."""

    speech: SpeechEncoder

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        """Every layer's output, without gradients; arguments as in `SpeechEncoder.forward`."""
        return self.speech(waveforms, lengths)

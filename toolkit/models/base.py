"""The contract of every encoder, and the speech encoder that all tasks share.

Dimensions: B batch, S samples, T encoder frames, F features, D encoder width, L layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from toolkit.config import choice
from toolkit.models.output import EncoderOutput
from toolkit.models.registry import ENCODERS, FRONTENDS
from toolkit.nn.eager import eager_on_cpu
from toolkit.nn.scheduled import Clocked

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


class Encoder(Protocol):
    """What `ENCODERS` holds: built as `Encoder(config, num_features)`.

    Frames past an utterance's length may hold anything, and must not reach those before it.
    """

    dim: int
    """D, the width of every layer's output."""
    latent_dim: int
    """E, the width of what `embed` gives."""
    num_layers: int
    """L."""
    subsampling: int
    """Feature frames to one output frame."""
    mask_embedding: nn.Parameter
    """What stands in for hidden frames."""

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T'', F) features and (B,) lengths to what a mask hides: latents (B, T', E) and lengths (B,)."""

    def encode(
        self, x: Tensor, lengths: Tensor, mask: Tensor | None = None, padded: bool = True
    ) -> EncoderOutput:
        """Latents (B, T', E), their lengths (B,) and a mask (B, T'), True for hidden frames, to the output.

        `padded` is False if the caller knows that all utterances are as long as the batch: then attention needs no
        mask, and a GPU has faster ways to compute it.
        """

    def latent_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """T' for a number of feature frames, or for each of (B,) int64."""

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """T for a number of feature frames, or for each of (B,) int64."""


class SpeechEncoder(nn.Module):
    """Front end and encoder: waveforms in, representations of every layer out.

    The output for an utterance does not depend on what shares its batch.

    Attributes:
        dim: D, the width of every layer's output.
        latent_dim: E, the width of the frames that a mask hides.
        num_layers: L.
        frame_shift: seconds from one output frame to the next.
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = FRONTENDS[config.frontend.name](config.frontend)
        self.encoder = ENCODERS[config.encoder.name](config.encoder, self.frontend.dim)
        self.dim: int = self.encoder.dim
        self.latent_dim: int = self.encoder.latent_dim
        self.num_layers: int = self.encoder.num_layers
        self.frame_shift: float = self.frontend.frame_shift * self.encoder.subsampling

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        mask: Tensor | None = None,
        augment: Augment | None = None,
        channels: Tensor | None = None,
        padded: bool = True,
    ) -> EncoderOutput:
        """Encodes a padded batch.

        Args:
            waveforms: (B, S) samples in [-1, 1] at the front end's rate.
            lengths: (B,) int64 valid samples.
            mask: (B, T') bool, True where a latent frame is replaced by the learned mask embedding; or (B * M, T') for
                M masks an utterance, those of one utterance in a row: then the output has B * M rows.
            augment: what is done to the features before the encoder sees them.
            channels: (B, E) bool, True where a dimension of an utterance's latents is zeroed, in all frames.
            padded: False if all lengths are S, which the caller knows and a GPU would have to be asked for.
        """
        features, feature_lengths = self.frontend(waveforms, lengths)
        if augment is not None:
            features = augment(features, feature_lengths)
        latents, latent_lengths = self.encoder.embed(features, feature_lengths)
        if channels is not None:
            latents = latents.masked_fill(channels[:, None], 0.0)
        masks = 1 if mask is None else len(mask) // len(latents)
        repeated = latents, latent_lengths
        if masks > 1:
            repeated = latents.repeat_interleave(masks, 0), latent_lengths.repeat_interleave(masks)
        output = self.encoder.encode(*repeated, mask, padded)
        learned = features if features.requires_grad else None
        # Not _replace, which torch.compile cannot follow.
        return EncoderOutput(output.frames, output.lengths, output.layers, latents, learned)

    def latents(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The frames that a mask would hide: (B, T', E), and their lengths (B,)."""
        return self.encoder.embed(*self.frontend(waveforms, lengths))

    def latent_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Latent frames, which a mask has, for a number of samples, or for each of (B,) int64."""
        return self.encoder.latent_lengths(self.frontend.output_lengths(lengths))

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Frames for a number of samples, or for each of (B,) int64.

        Numbers stay numbers, so that a shape needs no look into a tensor.
        """
        return self.encoder.output_lengths(self.frontend.output_lengths(lengths))


class TaskModel(nn.Module):
    """A model of any task."""

    def set_update(self, update: int) -> None:
        """Tells all parts whose behaviour changes in the course of training how many updates are done."""
        clock = torch.tensor(float(update), dtype=torch.float64)
        for module in self.modules():
            if isinstance(module, Clocked):
                module.update, module.clock = update, clock


class SpeechModel(TaskModel):
    """A model of any task on speech: a `speech` encoder and something on top of it."""

    speech: SpeechEncoder

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor) -> EncoderOutput:
        """Every layer's output, without gradients; arguments as in `SpeechEncoder.forward`.

        Raises:
            ValueError: see `check_lengths`.
        """
        check_lengths(waveforms, lengths)
        return self.speech(waveforms, lengths)


def check_lengths(waveforms: Tensor, lengths: Tensor) -> None:
    """Refuses lengths (B,) beyond the S samples of waveforms (B, S).

    Only lengths on the CPU are looked at, and not in compiled code: a GPU would have to be waited for.

    Raises:
        ValueError: an utterance is longer than what there is of it.
    """
    if eager_on_cpu(lengths) and (longest := int(lengths.max())) > waveforms.shape[1]:
        raise ValueError(
            f"lengths must be at most {waveforms.shape[1]}, the number of samples, got {longest}"
        )

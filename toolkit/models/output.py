"""What every encoder returns."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """What an encoder made of a batch. B batch, T frames, D width, E width before the mask, F features, L layers."""

    frames: Tensor
    """(B, T, D) output; frames past an utterance's length hold arbitrary values."""
    lengths: Tensor
    """(B,) int64 valid frames."""
    layers: Sequence[Tensor]
    """L + 1 tensors (B, T, D): the input of the first layer, then the output of each layer. An encoder whose layers
    have other rates or widths makes them alike when they are asked for."""
    latents: Tensor | None = None
    """(B, T', E) what the encoder's `embed` gave, before anything was hidden; T' is T, unless the encoder subsamples
    its output. With several masks an utterance it still has one row for each utterance."""
    features: Tensor | None = None
    """(B, T'', F) what the front end gave; set where it learns."""

"""What every encoder returns."""

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """The last frames, their lengths, and what each layer gave. B batch, T frames, D width, L layers."""

    frames: Tensor
    """(B, T, D) output; frames past an utterance's length hold arbitrary values."""
    lengths: Tensor
    """(B,) int64 valid frames."""
    layers: list[Tensor]
    """L + 1 tensors (B, T, D): the input of the first layer, then the output of each layer."""

"""Reads pretrained encoders that other programs wrote."""

from typing import Any, NamedTuple

from torch import Tensor


class Converted(NamedTuple):
    """A pretrained encoder in the toolkit's terms."""

    speech: dict[str, Any]
    """`toolkit.models.base.SpeechConfig` as a plain dictionary."""
    weights: dict[str, Tensor]
    """Name in `SpeechEncoder` ("frontend.…", "encoder.…") -> tensor."""
    left_out: list[str]
    """What the file holds beside the encoder, in its own names: heads, quantisers, decoders."""

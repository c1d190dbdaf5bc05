"""What every reader of a foreign checkpoint gives."""

from typing import NamedTuple

from torch import Tensor


class Converted(NamedTuple):
    """A speech encoder: its configuration and its weights."""

    speech: dict
    """`SpeechConfig` as plain dictionaries."""
    weights: dict[str, Tensor]
    """By name within `SpeechEncoder`."""
    left_out: list[str]
    """Names in the checkpoint that have no place in a speech encoder, such as those of heads and decoders."""

"""What all layers of a stack share in one pass: positions, which frames exist, which may be seen.

Dimensions: B batch, T frames, S frames that may be attended to (T and those kept from before, when streaming), P width
of a position's encoding, K taps of a convolution.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.nn.masks import valid_mask

HIDDEN = -1000.0
"""Added to the score of a frame that may not be attended to: its weight is 0, and where all are hidden no NaN comes."""


class Context(NamedTuple):
    """Of one stack, at its frame rate."""

    positions: Tensor
    """(S + T - 1, P) encodings of source minus target, from -(S - 1) to T - 1."""
    valid: Tensor
    """(B, T) bool, True for frames that exist."""
    visible: Tensor
    """(B, S) bool, True for frames that may be attended to."""
    hidden: Tensor | None
    """(T, S) bool, True for sources that a target must not see; None if it may see all."""
    chunk: int
    """Frames of a chunk; T for the whole."""
    edges: tuple[Tensor, Tensor] | None
    """(B, T) int64 each: a frame's distance from the start and from the end of its chunk; None where not causal."""
    keep: Tensor | None = None
    """(B, 1, D) what channels are multiplied by after each layer; None in evaluation."""


def make_context(
    lengths: Tensor, frames: int, pos_dim: int, causal: bool, chunk: int, left_chunks: int
) -> Context:
    """The context of a stack that sees whole utterances.

    Args:
        lengths: (B,) valid frames.
        frames: T, a multiple of `chunk`.
        pos_dim: P.
        causal: whether convolutions go by chunks.
        chunk: frames of a chunk, or -1 for the whole utterance.
        left_chunks: chunks that a frame sees before its own, or -1 for all.
    """
    valid = valid_mask(lengths, frames)
    positions = relative_positions(frames, frames, pos_dim, lengths.device)
    hidden = hidden_frames(frames, chunk, left_chunks, lengths.device) if causal and chunk > 0 else None
    edges = chunk_edges(lengths, frames, chunk) if causal else None
    return Context(positions, valid, valid, hidden, chunk if chunk > 0 else frames, edges)


def relative_positions(sources: int, targets: int, dim: int, device: torch.device) -> Tensor:
    """Encodes source - target, from -(sources - 1) to targets - 1, as (sources + targets - 1, dim).

    Large offsets are squeezed by a logarithm and an arc tangent, so that 1000 and 1001 are almost the same; of the
    resulting angle, cosines and sines of the first dim / 2 multiples are taken; the last sine gives way to a 1.
    """
    offset = torch.arange(1 - sources, targets, device=device, dtype=torch.float32)[:, None]
    width = math.sqrt(dim)
    squeezed = width * offset.sign() * torch.log1p(offset.abs() / width)
    angle = (squeezed * (2 * math.pi / dim)).atan() * torch.arange(1, dim // 2 + 1, device=device)
    encoding = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)
    return torch.nn.functional.pad(encoding[:, :-1], (0, 1), value=1.0)


def hidden_frames(frames: int, chunk: int, left_chunks: int, device: torch.device) -> Tensor:
    """(T, T) bool, True where a frame (row) must not see another (column): later chunks, and those too far back."""
    index = torch.arange(frames, device=device) // chunk
    target, source = index[:, None], index[None, :]
    later = source > target
    return later if left_chunks < 0 else later | (source < target - left_chunks)


def chunk_edges(
    lengths: Tensor, frames: int, chunk: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distances of each frame from the start and from the end of its chunk, (B, T) int64 each.

    An utterance that is shorter than a chunk is one chunk of its own length.

    Args:
        lengths: (B,) valid frames.
        frames: T.
        chunk: frames of a chunk, or -1 for the whole utterance.
        start: (B,) frames that went before, if this is one chunk of a stream.
    """
    size = lengths if chunk < 0 else torch.where(lengths < chunk, lengths, chunk)
    if start is not None:
        size = torch.where(start > 0, chunk, size)
    size = size.clamp(min=1)[:, None]
    inside = torch.arange(frames, device=lengths.device) % size
    return inside, size - 1 - inside

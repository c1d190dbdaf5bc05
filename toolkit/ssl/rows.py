"""Picks the frames that count out of a batch, usually the hidden ones, so that heads need not compute the others.

Dimensions: B utterances, T frames, N frames of an utterance that count (padded), D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.nn.eager import eager_on_cpu
from toolkit.nn.masks import valid_mask


class WeightedRows(NamedTuple):
    """The frames that a loss looks at."""

    places: Tensor
    """(B, N) int64 numbers of frames, those that count first and in order."""
    counted: Tensor
    """(B, N) bool, True for frames that count."""
    masked: Tensor
    """(B, N) bool, True for those of them that are masked."""
    weights: Tensor
    """(B, N) what each of them weighs in the loss, 0 where it does not count."""


def weighted_rows(
    masked: Tensor, valid: Tensor, most: int, masked_weight: float, unmasked_weight: float
) -> WeightedRows:
    """Where the masked frames are; with a weight for the others, where all valid ones are.

    Args:
        masked: (B, T) bool, True for masked frames, which are all valid.
        valid: (B, T) bool.
        most: a bound on the masked frames of an utterance; see `hidden_rows`.
        masked_weight: of masked frames.
        unmasked_weight: of the other valid frames.
    """
    if unmasked_weight:
        places, counted = hidden_rows(valid, valid.shape[1])
    else:
        places, counted = hidden_rows(masked, most)
    is_masked = masked.gather(1, places)
    weights = torch.where(is_masked, masked_weight, unmasked_weight) * counted
    return WeightedRows(places, counted, is_masked, weights)


def hidden_rows(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where the hidden frames are.

    Args:
        mask: (B, T) bool, True where hidden.
        most: a bound on the hidden frames of an utterance. It is taken for N on a GPU, which would have to be waited
            for to tell their number, and in compiled code; else, on a CPU, N is the largest number there is.

    Returns:
        Numbers of frames (B, N) int64, those of an utterance's hidden frames first and in order; and (B, N) bool,
        True for hidden frames.
    """
    counts = mask.sum(dim=1)
    size = int(counts.max()) if eager_on_cpu(mask) else min(most, mask.shape[1])
    places = (~mask).byte().argsort(dim=1, stable=True)[:, :size]
    return places, valid_mask(counts, size)


def pick(x: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    """The frames that `hidden_rows` or `weighted_rows` named, (B, T, D) to (B, N, D); 0 where they do not count."""
    offsets = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    rows = x.flatten(0, 1).index_select(0, (places + offsets).flatten())
    return rows.view(*places.shape, x.shape[2]).masked_fill(~hidden[..., None], 0.0)

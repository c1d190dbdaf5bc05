"""Picks the hidden frames out of a batch, so that heads need not compute the others.

Dimensions: B utterances, T frames, N hidden frames of an utterance (padded), D width.
"""

import torch
from torch import Tensor

from toolkit.nn.eager import eager_on_cpu
from toolkit.nn.masks import valid_mask


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
    """The frames that `hidden_rows` named, (B, T, D) to (B, N, D); 0 where they are not hidden."""
    offsets = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    rows = x.flatten(0, 1).index_select(0, (places + offsets).flatten())
    return rows.view(*places.shape, x.shape[2]).masked_fill(~hidden[..., None], 0.0)

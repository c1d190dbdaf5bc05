"""Masks made of lengths."""

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """Marks the frames that exist.

    Args:
        lengths: (B,) number of valid frames.
        size: T, the padded number of frames.

    Returns:
        (B, T) bool, True for valid frames.

    >>> valid_mask(torch.tensor([1, 3]), 3).int().tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]

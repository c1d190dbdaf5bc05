"""Consistency regularisation of CTC: two views of the same audio should get the same symbols (arXiv 2410.05101).

Dimensions: B utterances, T frames, V symbols.
"""

import torch
from torch import Tensor


def consistency_loss(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """How far the symbol distributions of two views of each utterance are apart: KL divergences in both directions.

    Each view moves towards the other as it is: no gradient flows through the one that is the goal. The paper counts
    half of this beside half of the summed CTC losses of the two views.

    Args:
        first: (B, T, V) log-probabilities of one view.
        second: (B, T, V) those of the other, frame by frame of the same audio.
        lengths: (B,) valid frames.

    Returns:
        (B,) in float32, or float64 for float64, summed over frames.
    """
    with torch.autocast(first.device.type, enabled=False):
        distance = _divergence(second.detach(), first) + _divergence(first.detach(), second)
        valid = torch.arange(first.shape[1], device=first.device) < lengths[:, None]
        return distance.masked_fill(~valid, 0.0).sum(dim=1)


def _divergence(goal: Tensor, log_probs: Tensor) -> Tensor:
    """KL(goal || log_probs) of each frame, (B, T)."""
    dtype = torch.promote_types(goal.dtype, torch.float32)
    goal, log_probs = goal.to(dtype), log_probs.to(dtype)
    return torch.nn.functional.kl_div(log_probs, goal, reduction="none", log_target=True).sum(dim=2)

"""The transducer loss over all alignments (Graves 2012, arXiv 1211.3711): a range of all positions on every frame.

Dimensions: B utterances, T frames, U tokens, V symbols, J joiner width.
"""

import torch
from torch import Tensor

from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.pruned import pruned_loss, pruned_loss_of_logits


def full_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> Tensor:
    """Sum over all alignments, with logits tanh(encoder + predictor) @ weight.T + bias.

    Nothing of size (B, T, U + 1, V) is stored; the backward pass makes the logits again.

    Args:
        encoder: (B, T, J) projected frames.
        predictor: (B, U + 1, J) projected outputs of the predictor.
        weight: (V, J) of the joiner's last layer.
        bias: (V,).
        tokens: (B, U) ids, padded with 0, which is the blank.
        frames: (B,) valid frames.
        token_lengths: (B,) valid tokens.
        config: topology, delay penalty and backend.

    Returns:
        (B,) negative log-likelihoods; inf, with gradient 0, without an alignment.
    """
    ranges = _all_positions(encoder, predictor.shape[1])
    return pruned_loss(encoder, predictor, weight, bias, tokens, ranges, frames, token_lengths, config)


def full_loss_of_logits(
    logits: Tensor, tokens: Tensor, frames: Tensor, token_lengths: Tensor, config: TransducerLossConfig
) -> Tensor:
    """The same from the joiner's logits (B, T, U + 1, V), for joiners of another form."""
    ranges = _all_positions(logits, logits.shape[2])
    return pruned_loss_of_logits(logits, tokens, ranges, frames, token_lengths, config)


def _all_positions(of_frames: Tensor, count: int) -> Tensor:
    """(B, T, count): 0, 1, ... on every frame."""
    return torch.arange(count, device=of_frames.device).expand(*of_frames.shape[:2], -1)

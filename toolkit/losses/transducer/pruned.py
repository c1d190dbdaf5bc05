"""The pruned transducer loss: all alignments within a few symbol positions of each frame (arXiv 2206.13236).

Dimensions: B utterances, T frames, U tokens, V symbols, J joiner width, R positions that are looked at on a frame.
"""

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.joiner import joiner_loss
from toolkit.losses.transducer.recursion import full_precision, lattice_loss


def pruned_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> Tensor:
    """Sum over the alignments within `ranges`, with logits tanh(encoder + predictor) @ weight.T + bias.

    No logits are stored; the backward pass makes them again.

    Args:
        encoder: (B, T, J) projected frames.
        predictor: (B, U + 1, J) projected outputs of the predictor.
        weight: (V, J) of the joiner's last layer.
        bias: (V,).
        tokens: (B, U) ids, padded with 0, which is the blank.
        ranges: (B, T, R) adjacent positions, from `pruning_ranges`.
        frames: (B,) valid frames.
        token_lengths: (B,) valid tokens.
        config: topology, delay penalty and backend.

    Returns:
        (B,) negative log-likelihoods; inf, with gradient 0, where no alignment fits into the ranges.
    """
    inputs = encoder, predictor, weight, bias, tokens, ranges, frames, token_lengths
    if config.backend == "k2":
        from toolkit.losses.transducer import k2_backend

        return k2_backend.pruned_loss(*inputs, config)
    starts = ranges[:, :, 0]

    def lattice(blank: Tensor, target: Tensor, rows: slice) -> Tensor:
        return lattice_loss(blank, target, starts[rows], frames[rows], token_lengths[rows], config).loss

    return joiner_loss(*inputs, lattice)


def pruned_loss_of_logits(
    logits: Tensor,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> Tensor:
    """The same from the joiner's logits (B, T, R, V), for joiners of another form."""
    if config.backend == "k2":
        from toolkit.losses.transducer import k2_backend

        return k2_backend.pruned_loss_of_logits(logits, tokens, ranges, frames, token_lengths, config)
    # The last position has no token: any symbol will do.
    symbols = functional.pad(tokens, (0, 1))[:, None].expand(-1, ranges.shape[1], -1).gather(2, ranges)
    with torch.autocast(logits.device.type, enabled=False):
        logits = full_precision(logits)
        normaliser = logits.logsumexp(dim=3)
        blank = logits[..., 0] - normaliser
        target = logits.gather(3, symbols[..., None])[..., 0] - normaliser
        return lattice_loss(blank, target, ranges[:, :, 0], frames, token_lengths, config).loss

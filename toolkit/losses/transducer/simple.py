"""The simple transducer loss: the joiner is a sum of logits (Kuang et al. 2022, arXiv 2206.13236, section 3.1).

Its normalisers are products of two matrices, so all alignments can be summed up at little cost. What it learns about
where tokens lie tells the pruned loss where to look.

Dimensions: B utterances, T frames, U tokens, V symbols.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.recursion import full_precision, lattice_loss
from toolkit.losses.transducer.threads import in_threads

# Added to sums of products of exponentials before they are divided by: all of them may underflow.
LEAST = 1e-30


class SimpleLoss(NamedTuple):
    """Losses, and how often the alignments are expected to take each arc."""

    loss: Tensor
    """(B,) negative log-likelihoods."""
    symbol_occupancy: Tensor
    """(B, T, U + 1) of the arcs that emit the next token; 0 at the last position."""
    blank_occupancy: Tensor
    """(B, T, U + 1) of the arcs to the next frame."""


def simple_loss(
    am: Tensor,
    lm: Tensor,
    tokens: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> SimpleLoss:
    """Sum over all alignments with the logits `am + lm`, smoothed towards each of the two alone.

    Log-probabilities are interpolated: (1 - lm_scale - am_scale) of the sum's, lm_scale of those of `lm` alone, and
    am_scale of those of `am` plus a unigram model: `lm` averaged over all positions of the batch, padding included.

    Args:
        am: (B, T, V) logits of the frames.
        lm: (B, U + 1, V) logits of the tokens so far.
        tokens: (B, U) ids, padded with 0, which is the blank.
        frames: (B,) valid frames.
        token_lengths: (B,) valid tokens.
        config: scales, topology, delay penalty and backend.

    Returns:
        Losses and occupancies; a loss without an alignment is inf, its gradient and occupancies are 0.
    """
    if config.backend == "k2":
        from toolkit.losses.transducer import k2_backend

        return SimpleLoss(*k2_backend.simple_loss(am, lm, tokens, frames, token_lengths, config))
    # The last position has no token: any symbol will do.
    symbols = functional.pad(tokens, (0, 1))
    with torch.autocast(am.device.type, enabled=False):
        blank, target = _Sum.apply(am, lm, symbols, frames, token_lengths)
        share = 1 - config.lm_scale - config.am_scale
        blank, target = share * blank, share * target
        if config.lm_scale:
            log_probs = full_precision(lm).log_softmax(dim=-1)
            of_symbols = log_probs.gather(2, symbols[:, :, None])
            blank = blank + config.lm_scale * log_probs[:, None, :, 0]
            target = target + config.lm_scale * of_symbols[:, None, :, 0]
        if config.am_scale:
            unigram = full_precision(lm).softmax(dim=-1).mean(dim=(0, 1)) + LEAST
            log_probs = (full_precision(am) + unigram.log()).log_softmax(dim=-1)
            blank = blank + config.am_scale * log_probs[:, :, :1]
            target = target + config.am_scale * _picked(log_probs, symbols)
        starts = torch.zeros_like(frames)[:, None].expand(am.shape[:2])
        loss = lattice_loss(blank, target, starts, frames, token_lengths, config)
    return SimpleLoss(loss.loss, loss.target_occupancy, loss.blank_occupancy)


def _picked(of_frames: Tensor, symbols: Tensor) -> Tensor:
    """(B, T, V) at (B, U + 1) symbols, on each frame: (B, T, U + 1)."""
    return of_frames.gather(2, symbols[:, None].expand(-1, of_frames.shape[1], -1))


class _Sum(torch.autograd.Function):
    """Log-probabilities (B, T, U + 1) of blank and next token, where logits are `am + lm`.

    Of what is (B, T, V) in size it makes nothing that outlives it but the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, am: Tensor, lm: Tensor, symbols: Tensor, frames: Tensor, token_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        blank, target = (full_precision(am.new_zeros(*am.shape[:2], lm.shape[1])) for _ in range(2))

        def tile(b: slice, t: slice, u: slice) -> None:
            frame, position = full_precision(am[b, t]), full_precision(lm[b, u])
            frame_exp, frame_max = _exponentials(frame)
            position_exp, position_max = _exponentials(position)
            normaliser = (frame_exp @ position_exp.mT + LEAST).log() + frame_max + position_max.mT
            blank[b, t, u] = frame[:, :, :1] + position[:, None, :, 0] - normaliser
            of_position = position.gather(2, symbols[b, u, None])[:, None, :, 0]
            target[b, t, u] = _picked(frame, symbols[b, u]) + of_position - normaliser

        _tile_by_tile(tile, am, frames, token_lengths)
        ctx.save_for_backward(am, lm, symbols, frames, token_lengths, blank)
        return blank, target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, blank_gradient: Tensor, target_gradient: Tensor) -> tuple[Tensor | None, ...]:
        am, lm, symbols, frames, token_lengths, blank = ctx.saved_tensors
        am_gradient, lm_gradient = torch.zeros_like(am), torch.zeros_like(lm)

        def tile(b: slice, t: slice, u: slice) -> None:
            scores = blank[b, t, u], blank_gradient[b, t, u], target_gradient[b, t, u]
            grads = _gradients(am[b, t], lm[b, u], symbols[b, u], *scores)
            am_gradient[b, t], lm_gradient[b, u] = grads

        with torch.autocast(am.device.type, enabled=False):
            _tile_by_tile(tile, am, frames, token_lengths)
        return am_gradient, lm_gradient, None, None, None


def _gradients(
    frame: Tensor, position: Tensor, symbols: Tensor, blank: Tensor, of_blank: Tensor, of_target: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of some frames' and positions' logits, given the scores of blank and the gradients of both scores."""
    frame, position = full_precision(frame), full_precision(position)
    frame_exp, frame_max = _exponentials(frame)
    position_exp, position_max = _exponentials(position)
    # 1 / (sum of products of exponentials), which the scores remember.
    inverse = blank - frame[:, :, :1] - position[:, None, :, 0]
    inverse = (inverse + frame_max + position_max.mT).exp_()
    share = inverse.mul_(of_blank + of_target).neg_()
    frame_gradient = (share @ position_exp).mul_(frame_exp)
    frame_gradient[:, :, 0] += of_blank.sum(dim=2)
    frame_gradient.scatter_add_(2, symbols[:, None].expand_as(of_target), of_target)
    position_gradient = (share.mT @ frame_exp).mul_(position_exp)
    position_gradient[:, :, 0] += of_blank.sum(dim=1)
    position_gradient.scatter_add_(2, symbols[:, :, None], of_target.sum(dim=1)[:, :, None])
    return frame_gradient, position_gradient


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - maximum) and the maximum over symbols, (B, ., V) and (B, ., 1)."""
    maximum = logits.amax(dim=2, keepdim=True)
    return (logits - maximum).exp_(), maximum


def _tile_by_tile(
    tile: Callable[[slice, slice, slice], None], am: Tensor, frames: Tensor, token_lengths: Tensor
) -> None:
    """Calls `tile` with utterances, frames and positions to compute at a time.

    On a CPU an utterance without its padding, which fits into the cache; else all, for the sake of few large kernels.
    """
    if am.device.type != "cpu":
        tile(slice(None), slice(None), slice(None))
        return
    counts, lengths = frames.tolist(), token_lengths.tolist()

    def work(share: list[int]) -> None:
        for b in share:
            tile(slice(b, b + 1), slice(counts[b]), slice(lengths[b] + 1))

    in_threads(work, counts)

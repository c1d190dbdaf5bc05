"""The joiner and its log-softmax as one function that stores no logits.

A joiner scores a cell of the lattice, encoder frame t and symbol position u, by tanh(encoder[t] + predictor[u]) times
the matrix of the output layer, whose log-softmax is over the vocabulary. A transducer loss looks at two of these
log-probabilities only: that of blank and that of the next target. So only these are stored, and the rest is computed
again for gradients; or, for a loss as a whole (`joiner_loss`), gradients are computed at once, utterance by utterance.

Dimensions: B batch, T frames, U symbols, R symbol positions kept of each frame, J joiner, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from toolkit.errors import UserError
from toolkit.losses.transducer.threads import in_threads

Lattice = Callable[[Tensor, Tensor, slice], Tensor]
"""(blank (N, T, R), target (N, T, R), which N of the B utterances) -> losses (N,); differentiable in both scores."""


def joiner_scores(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of blank and of the next target in the cells of the lattice that are looked at.

    Computed in float32, or float64 if all inputs are (on a GPU with all logits in memory, as a check only); on a GPU
    under autocast, products are of bfloat16 with sums in float32. Nothing is computed for cells outside the lattice:
    frames past `frames`, positions past `token_lengths`.

    Args:
        encoder: (B, T, J) projected encoder frames.
        predictor: (B, U + 1, J) projected predictor outputs.
        weight: (V, J) of the output layer.
        bias: (V,) of the output layer, or None.
        tokens: (B, U) targets, padded with anything below V.
        ranges: (B, T, R) symbol positions to look at for each frame, in 0 to U; those of a frame follow each other,
            and those of a later frame begin no earlier.
        frames: (B,) valid frames.
        token_lengths: (B,) valid symbols.

    Returns:
        blank (B, T, R) and target (B, T, R); 0 outside the lattice, and target 0 at the position after the last symbol.
    """
    inputs = _same_type(encoder, predictor, weight, bias)
    lattice = tokens, ranges, frames, token_lengths
    if encoder.is_cuda and inputs[0].dtype == torch.float64:
        return joiner_scores_plain(*inputs, *lattice)
    if encoder.is_cuda:
        try:
            from toolkit.losses.transducer.triton_joiner import triton_joiner_scores
        except ModuleNotFoundError as error:
            raise UserError(f"transducer joiner on a GPU: {error}; expected the package triton") from error
        return triton_joiner_scores(*inputs, *lattice, torch.is_autocast_enabled("cuda"))
    return _Scores.apply(*inputs, *lattice)


def joiner_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    lattice: Lattice,
) -> Tensor:
    """A transducer loss of each utterance as a function of the joiner's scores.

    The same as `lattice(*joiner_scores(...), slice(None))`. On a CPU it is faster: the gradients are computed in the
    forward pass, a few utterances at a time, while their activations are in the cache, so that nothing is computed
    twice if all utterances weigh the same in the end.

    Args:
        encoder: as of `joiner_scores`, like all that follow.
        lattice: the loss. Where an utterance has no path its loss may be infinite, but its gradient must be 0.

    Returns:
        (B,) losses.
    """
    if encoder.is_cuda:
        scores = joiner_scores(encoder, predictor, weight, bias, tokens, ranges, frames, token_lengths)
        return lattice(*scores, slice(None))
    inputs = _same_type(encoder, predictor, weight, bias)
    return _Loss.apply(*inputs, tokens, ranges, frames, token_lengths, lattice, torch.is_grad_enabled())


def joiner_scores_plain(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `joiner_scores` computes, in the plainest way, with all logits (B, T, R, V) in memory."""
    batch = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    hidden = torch.tanh(encoder[:, :, None] + predictor[batch, ranges])
    log_probs = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)
    token = torch.nn.functional.pad(tokens, (0, 1))[batch, ranges]
    target = log_probs.gather(-1, token[..., None])[..., 0]
    inside = torch.arange(ranges.shape[1], device=ranges.device)[:, None] < frames[:, None, None]
    lengths = token_lengths[:, None, None]
    blank = log_probs[..., 0].masked_fill(~inside | (ranges > lengths), 0)
    return blank, target.masked_fill(~inside | (ranges >= lengths), 0)


def _same_type(*tensors: Tensor | None) -> list[Tensor | None]:
    """All in float64 if that is what they are, otherwise in float32; contiguous."""
    double = all(tensor is None or tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if double else torch.float32
    return [tensor if tensor is None else tensor.to(dtype).contiguous() for tensor in tensors]


class _Scores(torch.autograd.Function):
    """See `joiner_scores`; on a CPU."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        from toolkit.losses.transducer.joiner_tiles import Activations, Rows, grouped

        ctx.save_for_backward(*inputs)
        blank, target = (inputs[0].new_zeros(inputs[5].shape) for _ in range(2))
        groups = grouped(Rows.of(*inputs[4:]), inputs[5])

        def work(share: list[int]) -> None:
            activations = Activations(*inputs[:4])
            for index in share:
                for strip in groups[index].rows.strips():
                    activations.scores(strip, blank, target)

        in_threads(work, [group.size for group in groups])
        return blank, target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, blank: Tensor, target: Tensor) -> tuple[Tensor | None, ...]:
        *sums, bias = _gradients(ctx.saved_tensors, blank.contiguous(), target.contiguous())
        return *sums, bias if ctx.needs_input_grad[3] else None, None, None, None, None


def _gradients(inputs: tuple[Any, ...], blank: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Gradients of encoder, predictor, weight and bias, given those of the scores (B, T, R)."""
    from toolkit.losses.transducer.joiner_tiles import Activations, Gradients, Rows, grouped

    sums = Gradients.zeros(*inputs[:3])
    groups = grouped(Rows.of(*inputs[4:]), inputs[5])

    def work(share: list[int]) -> Gradients:
        activations, own = Activations(*inputs[:4]), sums.own()
        for index in share:
            activations.gradients(groups[index].rows, blank, target, False, own)
        return own

    sums.add(in_threads(work, [group.size for group in groups]))
    return sums


class _Loss(torch.autograd.Function):
    """See `joiner_loss`; on a CPU. The forward pass leaves gradients of the sum of all losses."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        from toolkit.losses.transducer.joiner_tiles import Activations, Gradients, Rows, grouped

        *inputs, lattice, differentiated = arguments
        differentiated = differentiated and any(ctx.needs_input_grad)
        blank, target = (inputs[0].new_zeros(inputs[5].shape) for _ in range(2))
        losses = inputs[0].new_empty(len(blank))
        sums = Gradients.zeros(*inputs[:3])
        groups = grouped(Rows.of(*inputs[4:]), inputs[5])

        def work(share: list[int]) -> Gradients:
            activations, own = Activations(*inputs[:4]), sums.own()
            for index in share:
                these, rows = groups[index]
                kept = differentiated and groups[index].size <= activations.capacity
                for strip in [rows] if kept else rows.strips():
                    activations.scores(strip, blank, target)
                scores = lattice, blank[these], target[these], these
                if differentiated:
                    losses[these], blank[these], target[these] = _differentiate(*scores)
                    activations.gradients(rows, blank, target, kept, own)
                else:
                    losses[these] = lattice(*scores[1:])
            return own

        sums.add(in_threads(work, [group.size for group in groups]))
        ctx.save_for_backward(*inputs, blank, target, *sums)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, blank, target = ctx.saved_tensors[:10]
        sums: tuple[Tensor, ...] = ctx.saved_tensors[10:]
        # Utterances whose gradients are 0 may weigh what they like.
        scales = grad[(blank != 0).flatten(1).any(1) | (target != 0).flatten(1).any(1)]
        if (scales == scales[:1]).all():
            sums = tuple(scales[:1].sum() * each for each in sums)
        else:
            each = grad[:, None, None]
            sums = _gradients(tuple(inputs), blank * each, target * each)
        return *sums[:3], sums[3] if ctx.needs_input_grad[3] else None, *[None] * 6


def _differentiate(
    lattice: Lattice, blank: Tensor, target: Tensor, utterances: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of some utterances, and the gradients of their sum with respect to the scores."""
    # Copies: autograd would notice that other threads write to what these are parts of.
    blank, target = blank.detach().clone().requires_grad_(), target.detach().clone().requires_grad_()
    with torch.enable_grad():
        losses = lattice(blank, target, utterances)
        return losses.detach(), *torch.autograd.grad(losses.sum(), (blank, target))

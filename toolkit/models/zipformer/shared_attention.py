"""Attention weights that several modules use, and one backward pass for all of them.

The gradients of the weights are as large as the weights. Here they never exist as a whole: whoever used the weights
leaves what it knows, and once all have done so, the gradient is put together, taken through the softmax and on to
queries and keys, a piece at a time. On a CPU a piece is one head of one utterance, which stays in the cache; elsewhere
it is everything. Scores and their gradients are computed in float32, also those of double inputs.

Dimensions: B batch, H heads, T frames, S frames that may be attended to, C width of a query, P width of a position,
V width of a value.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from toolkit.models.zipformer.context import HIDDEN, Context
from toolkit.nn.eager import exporting

BOUND = 25.0
"""Greater scores are penalised."""
PENALTY = 1e-4


class Use(NamedTuple):
    """What a user of the weights leaves behind in backward, float32; h is H, or 1 for the first head alone."""

    grad: Tensor
    """(B, h, T, V) of its averages."""
    values: Tensor
    """(B, h, S, V) that it averaged."""


class SharedAttention:
    """Softmax of query . key + position . encoding.

    Args:
        query: (B, H, T, C).
        key: (B, H, S, C).
        position: (B, H, T, P).
        encoded: (H, P, S + T - 1), by source minus target.
        context: says what is hidden.
        penalise: whether large scores add to the loss.

    Attributes:
        weights: (B, H, T, S), without a graph.
    """

    def __init__(
        self, query: Tensor, key: Tensor, position: Tensor, encoded: Tensor, context: Context, penalise: bool
    ) -> None:
        self.uses: dict[int, Use] = {}
        self._users = 0
        arguments = query, key, position, encoded
        self._link: Tensor | None = None
        if exporting():
            self.weights = _plain_weights(*arguments, context)
        else:
            self._link, self.weights = _Weights.apply(*arguments, context, penalise, self.uses)

    def average(self, values: Tensor) -> Tensor:
        """Values (B, h, S, V), of all heads or of the first alone, to (B, h, T, V)."""
        if self._link is None:
            return self.weights[:, : values.shape[1]] @ values
        self._users += 1
        return _Average.apply(self._link, self.weights, values, self.uses, self._users)


class _Weights(torch.autograd.Function):
    """Gives a number that ties users to the weights in the graph, and the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        position: Tensor,
        encoded: Tensor,
        context: Context,
        penalise: bool,
        uses: dict[int, Use],
    ) -> tuple[Tensor, Tensor]:
        shape = *query.shape[:3], key.shape[2]
        weights = query.new_empty(shape)
        sides = torch.empty(shape, dtype=torch.int8, device=query.device) if penalise else None
        bias = torch.where(context.visible, 0.0, HIDDEN)[:, None, None]
        chunks = None if context.hidden is None else torch.where(context.hidden, HIDDEN, 0.0)
        with torch.autocast(query.device.type, enabled=False):
            for rows, heads in _pieces(query):
                by_offset = position[rows, heads].float() @ encoded[heads].float()
                scores = query[rows, heads].float() @ key[rows, heads].float().mT
                scores += shifted(by_offset, shape[3])
                if sides is not None:
                    sides[rows, heads] = (scores > BOUND).to(torch.int8) - (scores < -BOUND).to(torch.int8)
                scores += bias[rows]
                if chunks is not None:
                    scores += chunks
                weights[rows, heads] = scores.softmax(-1)
        ctx.uses = uses
        ctx.save_for_backward(query, key, position, encoded, weights, sides)
        ctx.mark_non_differentiable(weights)
        return query.new_zeros(()), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, key, position, encoded, weights, sides = ctx.saved_tensors
        query_grad, key_grad, position_grad = (torch.empty_like(x) for x in (query, key, position))
        encoded_grad = torch.zeros_like(encoded, dtype=torch.float32)
        padded = None
        for rows, heads in _pieces(query):
            grad = _through_softmax(ctx.uses.values(), weights[rows, heads].float(), rows, heads)
            if sides is not None:
                grad.add_(sides[rows, heads], alpha=PENALTY)
            query_grad[rows, heads] = grad @ key[rows, heads].float()
            key_grad[rows, heads] = grad.mT @ query[rows, heads].float()
            if padded is None:
                # Only what `shifted` shows is ever written, so the rest stays zero.
                padded = grad.new_zeros(*grad.shape[:3], encoded.shape[2])
            shifted(padded, grad.shape[3]).copy_(grad)
            position_grad[rows, heads] = padded @ encoded[heads].float().mT
            encoded_grad[heads] += (position[rows, heads].float().mT @ padded).sum(0)
        ctx.uses.clear()
        return query_grad, key_grad, position_grad, encoded_grad.to(encoded.dtype), None, None, None


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, link: Tensor, weights: Tensor, values: Tensor, uses: dict[int, Use], user: int
    ) -> Tensor:
        ctx.uses, ctx.user = uses, user
        ctx.save_for_backward(weights, values)
        return weights[:, : values.shape[1]] @ values.to(weights.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        weights, values = ctx.saved_tensors
        ctx.uses[ctx.user] = Use(grad.float(), values.float())
        values_grad = weights[:, : values.shape[1]].mT @ grad.to(weights.dtype)
        return grad.new_zeros(()), None, values_grad.to(values.dtype), None, None


def _plain_weights(query: Tensor, key: Tensor, position: Tensor, encoded: Tensor, context: Context) -> Tensor:
    """The weights by operations that other programs have, for any number of utterances and frames."""
    batch, heads, targets, _ = query.shape
    offsets = encoded.shape[2]
    # With a further column a row is one longer than from one target's first source to the next one's.
    by_offset = functional.pad(position @ encoded, (0, 1)).reshape(batch, heads, targets * (offsets + 1))
    by_offset = by_offset[:, :, targets - 1 :][:, :, : targets * offsets]
    scores = (
        query @ key.transpose(2, 3) + by_offset.reshape(batch, heads, targets, offsets)[..., : key.shape[2]]
    )
    scores = scores + torch.where(context.visible, 0.0, HIDDEN)[:, None, None]
    if context.hidden is not None:
        scores = scores + torch.where(context.hidden, HIDDEN, 0.0)
    return scores.softmax(-1)


def shifted(x: Tensor, sources: int) -> Tensor:
    """(B, H, T, S + T - 1) by source minus target, contiguous, as (B, H, T, S) by source; a view."""
    batch, heads, targets, offsets = x.shape
    strides = heads * targets * offsets, targets * offsets, offsets - 1, 1
    return x.as_strided((batch, heads, targets, sources), strides, x.storage_offset() + targets - 1)


def _pieces(query: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and heads of each piece of (B, H, ...)."""
    batch, heads = query.shape[:2]
    if query.device.type != "cpu":
        yield slice(0, batch), slice(0, heads)
        return
    for head in range(heads):
        for row in range(batch):
            yield slice(row, row + 1), slice(head, head + 1)


def _through_softmax(uses: Iterable[Use], weights: Tensor, rows: slice, heads: slice) -> Tensor:
    """The gradient of a piece of the scores, from all uses of its weights (b, h, T, S)."""
    grad = torch.zeros_like(weights)
    for use in uses:
        both = slice(heads.start, min(heads.stop, use.grad.shape[1]))
        if both.start < both.stop:
            grad[:, : both.stop - both.start] += use.grad[rows, both] @ use.values[rows, both].mT
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, grad.dtype)

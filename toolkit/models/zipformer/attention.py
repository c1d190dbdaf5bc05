"""Attention of Zipformer: weights that three modules of a layer share.

Dimensions: B batch, T frames, S frames that may be attended to, D width, H heads, P width of a position's encoding, V
width of a value.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.models.zipformer.config import StackSizes
from toolkit.models.zipformer.context import HIDDEN, Context
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.nn.shaping import Balancer, Whiten, happens, penalise
from toolkit.nn.swoosh import shrink


def whitening_limit(limit: float, growth: float = 2.0) -> Scheduled:
    """A limit for `Whiten` that grows within 20000 batches."""
    return Scheduled((0, limit), (20000, growth * limit))


class AttentionWeights(nn.Module, Clocked):
    """Softmax of query . key + position query . projected position; not divided by a square root.

    The initial weights make up for that division, as befits ScaledAdam.
    """

    def __init__(self, sizes: StackSizes, pos_dim: int) -> None:
        super().__init__()
        heads, width = sizes.num_heads, sizes.query_head_dim
        self.num_heads = heads
        self.parts = [heads * width, heads * width, heads * sizes.pos_head_dim]
        keys = slice(heads * width, 2 * heads * width)
        self.project = nn.Linear(sizes.dim, sum(self.parts))
        self.project_positions = nn.Linear(pos_dim, self.parts[2], bias=False)
        shrink(self.project, width**-0.25)
        shrink(self.project_positions, 0.05)
        # A constant added to all keys changes nothing, so nothing but the balancer keeps it from growing.
        self.balancer = Balancer(0.4, 0.6, 0.0, 100.0, prob=0.025, columns=keys)
        self.whiten = Whiten(whitening_limit(3.0), strength=0.025, groups=heads, columns=keys)
        self.skip_positions = Scheduled((0, 0.5), (4000, 0.0))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) to weights (B, H, T, T) that sum to 1 over the last dimension."""
        query, key, position = self._split(x)
        scores = self._scores((query, key, position), context)
        if self.training and happens(0.1):
            scores = penalise(scores, bound=25.0, penalty=1e-4)
        return scores.softmax(-1)

    def stream(self, x: Tensor, context: Context, cached_key: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk (B, T, D) and the projected keys before it, (S - T, B, H * C): weights (B, H, T, S)."""
        query, key, position = self._split(x)
        key = torch.cat([cached_key.transpose(0, 1), key], dim=1)
        kept = key[:, key.shape[1] - len(cached_key) :].transpose(0, 1)
        return self._scores((query, key, position), context).softmax(-1), kept

    def _split(self, x: Tensor) -> list[Tensor]:
        return list(self.whiten(self.balancer(self.project(x))).split(self.parts, dim=-1))

    def _scores(self, parts: Sequence[Tensor], context: Context) -> Tensor:
        query, key, position = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        encoded = (
            self.project_positions(context.positions).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0)
        )
        if self.training and happens(self.now(self.skip_positions)):
            # Nothing is added, but the projection stays part of the graph: every rank has to have every gradient.
            scores = torch.add(query @ key.mT, encoded.sum(), alpha=0.0)
        else:
            scores = query @ key.mT + by_offset(position @ encoded, key.shape[2])
        scores = scores.masked_fill(~context.visible[:, None, None], HIDDEN)
        return scores if context.hidden is None else scores.masked_fill(context.hidden, HIDDEN)


def by_offset(scores: Tensor, sources: int) -> Tensor:
    """Scores by source minus target, (B, H, T, S + T - 1), to scores by source, (B, H, T, S), as a view."""
    batch, heads, targets, offsets = scores.shape
    rows = scores.contiguous()
    strides = (heads * targets * offsets, targets * offsets, offsets - 1, 1)
    return rows.as_strided((batch, heads, targets, sources), strides, rows.storage_offset() + targets - 1)


class SelfAttention(nn.Module):
    """Values, weighted and projected."""

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        width = sizes.num_heads * sizes.value_head_dim
        self.num_heads = sizes.num_heads
        self.value = nn.Linear(sizes.dim, width)
        self.out = nn.Linear(width, sizes.dim)
        shrink(self.out, 0.05)
        self.whiten = Whiten(whitening_limit(7.5, growth=3.0))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, T, D) and weights (B, H, T, T) to (B, T, D)."""
        return self._attend(self.value(x), weights)

    def stream(self, x: Tensor, weights: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk and the values before it, (S - T, B, H * V)."""
        value = torch.cat([cached.transpose(0, 1), self.value(x)], dim=1)
        kept = value[:, value.shape[1] - len(cached) :].transpose(0, 1)
        return self._attend(value, weights), kept

    def _attend(self, value: Tensor, weights: Tensor) -> Tensor:
        attended = weights @ value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return self.whiten(self.out(attended.transpose(1, 2).flatten(2)))


class NonlinAttention(nn.Module):
    """Gated values averaged by the first head's weights and gated again: out((A (u * tanh(s))) * y)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 3 * dim // 4
        self.expand = nn.Linear(dim, 3 * width)
        self.out = nn.Linear(width, dim)
        shrink(self.out, 0.05)
        self.balancer = Balancer(
            Scheduled((0, 0.25), (20000, 0.05)),
            Scheduled((0, 0.75), (20000, 0.95)),
            min_abs=0.5,
            max_abs=5.0,
            columns=slice(0, width),
        )
        self.whiten_values = Whiten(whitening_limit(5.0), columns=slice(width, 2 * width))
        self.whiten = Whiten(whitening_limit(5.0, growth=3.0))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, T, D) and one head's weights (B, T, T) to (B, T, D)."""
        gated, gate = self._gate(x)
        return self.whiten(self.out((weights @ gated) * gate))

    def stream(self, x: Tensor, weights: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk and the gated values before it, (1, B, S - T, 3/4 D)."""
        gated, gate = self._gate(x)
        gated = torch.cat([cached[0], gated], dim=1)
        kept = gated[None, :, gated.shape[1] - cached.shape[2] :]
        return self.out((weights @ gated) * gate), kept

    def _gate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before, value, after = self.whiten_values(self.balancer(self.expand(x))).chunk(3, dim=-1)
        return value * before.tanh(), after

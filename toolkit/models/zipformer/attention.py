"""Attention of Zipformer: weights that three modules of a layer share.

Dimensions: B batch, T frames, S frames that may be attended to, D width, H heads, P width of a position's encoding, V
width of a value.
"""

import torch
from torch import Tensor, nn

from toolkit.models.zipformer.config import StackSizes
from toolkit.models.zipformer.context import Context
from toolkit.models.zipformer.shared_attention import SharedAttention
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.nn.shaping import Balancer, Whiten, happens
from toolkit.nn.swoosh import shrink

PENALISED = 0.1
"""How often too large scores are penalised."""


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

    def forward(self, x: Tensor, context: Context) -> SharedAttention:
        """(B, T, D) to the weights of its frames."""
        return self._share(*self._split(x), context)

    def stream(self, x: Tensor, context: Context, cached_key: Tensor) -> tuple[SharedAttention, Tensor]:
        """`forward` for a chunk (B, T, D) and the projected keys before it, (S - T, B, H * C)."""
        query, key, position = self._split(x)
        key = torch.cat([cached_key.transpose(0, 1), key], dim=1)
        kept = key[:, key.shape[1] - len(cached_key) :].transpose(0, 1)
        return self._share(query, key, position, context), kept

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.whiten(self.balancer(self.project(x))).split(self.parts, dim=-1)

    def _share(self, query: Tensor, key: Tensor, position: Tensor, context: Context) -> SharedAttention:
        query, key, position = (split_heads(part, self.num_heads) for part in (query, key, position))
        positions = context.positions.to(self.project_positions.weight.dtype)
        encoded = split_heads(self.project_positions(positions)[None], self.num_heads)[0].transpose(1, 2)
        if self.training and happens(self.now(self.skip_positions)):
            # Nothing is added, but the projection stays part of the graph: every rank has to have every gradient.
            encoded = encoded * 0.0
        return SharedAttention(query, key, position, encoded, context, self.training and happens(PENALISED))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * C) to (B, H, T, C)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


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

    def forward(self, x: Tensor, weights: SharedAttention) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self._attend(self.value(x), weights)

    def stream(self, x: Tensor, weights: SharedAttention, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk and the values before it, (S - T, B, H * V)."""
        value = torch.cat([cached.transpose(0, 1), self.value(x)], dim=1)
        kept = value[:, value.shape[1] - len(cached) :].transpose(0, 1)
        return self._attend(value, weights), kept

    def _attend(self, value: Tensor, weights: SharedAttention) -> Tensor:
        attended = weights.average(split_heads(value, self.num_heads))
        return self.whiten(self.out(attended.transpose(1, 2).flatten(2)))


class NonlinAttention(nn.Module, Clocked):
    """Gated values averaged by the first head's weights and gated again: out((A (u * tanh(s))) * y).

    In some steps all weights that are not 0 count alike, so that it learns to average over time.
    """

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
        self.equal = Scheduled((0, 0.25), (4000, 0.025))

    def forward(self, x: Tensor, weights: SharedAttention) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        gated, gate = self._gate(x)
        if self.training and happens(self.now(self.equal)):
            equal = (weights.weights[:, 0] > 0).to(gated.dtype)
            averaged = (equal / equal.sum(-1, keepdim=True)) @ gated
        else:
            averaged = weights.average(gated[:, None])[:, 0]
        return self.whiten(self.out(averaged * gate))

    def stream(self, x: Tensor, weights: SharedAttention, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk and the gated values before it, (1, B, S - T, 3/4 D)."""
        gated, gate = self._gate(x)
        gated = torch.cat([cached[0], gated], dim=1)
        kept = gated[None, :, gated.shape[1] - cached.shape[2] :]
        return self.out(weights.average(gated[:, None])[:, 0] * gate), kept

    def _gate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before, value, after = self.whiten_values(self.balancer(self.expand(x))).chunk(3, dim=-1)
        return value * before.tanh(), after

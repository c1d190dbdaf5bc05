"""One layer of Zipformer.

Dimensions: B batch, T frames, D width, F feed-forward width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.models.zipformer.attention import (
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    whitening_limit,
)
from toolkit.models.zipformer.config import StackSizes
from toolkit.models.zipformer.context import Context
from toolkit.models.zipformer.convolution import ConvolutionModule
from toolkit.nn.adapter import AdapterSlot
from toolkit.nn.biasnorm import BiasNorm
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.nn.shaping import Balancer, Whiten, limit
from toolkit.nn.swoosh import SwooshLinear


class LayerState(NamedTuple):
    """What a layer keeps of a stream; L frames of left context, C / V the width of a key / value, K taps."""

    key: Tensor
    """(L, B, H * C)."""
    nonlin_attention: Tensor
    """(1, B, L, 3/4 D)."""
    value1: Tensor
    """(L, B, H * V)."""
    value2: Tensor
    """(L, B, H * V)."""
    convolution1: Tensor
    """(B, D, K // 2)."""
    convolution2: Tensor
    """(B, D, K // 2)."""


class FeedForward(nn.Module, Clocked):
    """Linear layer, SwooshL, dropout whose mask is shared over time, linear layer."""

    def __init__(self, dim: int, hidden_dim: int, dropout: Scheduled) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.out = SwooshLinear(hidden_dim, dim, "left", scale=0.1)
        self.dropout = dropout
        self.balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.whiten = Whiten(whitening_limit(7.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        hidden = self.balancer(self.expand(x))
        rate = self.now(self.dropout)
        keep = None
        if self.training and rate > 0:
            keep = (torch.rand(len(x), 1, hidden.shape[2], device=x.device) > rate) / (1 - rate)
        return self.whiten(self.out(hidden, keep))


class Bypass(nn.Module, Clocked):
    """Goes a learned part of the way from a module's input to its output, in each channel.

    Args:
        dim: D.
        skip: share of utterances in which the module is skipped, in training.
    """

    def __init__(self, dim: int, skip: float | Scheduled = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        self.skip = skip
        self.least = Scheduled((0, 0.9), (20000, 0.2))

    def forward(self, before: Tensor, after: Tensor, keep: Tensor | None = None) -> Tensor:
        """Between (B, ..., D) and (B, ..., D), which may broadcast.

        Args:
            before: the module's input.
            after: its output.
            keep: (B, 1, D), 0 for channels that are 0 in `before` and shall be so in the result.
        """
        scale = self.scale
        if self.training:
            scale = limit(scale, self.now(self.least), 1.0)
            if (rate := self.now(self.skip)) > 0:
                scale = scale * (
                    torch.rand(len(before), *[1] * (before.ndim - 1), device=scale.device) > rate
                )
            if keep is not None:
                scale = scale * keep
        return torch.lerp(before, after.to(before.dtype), scale.to(before.dtype))


class ZipformerLayer(nn.Module, Clocked):
    """Two halves that share attention weights; figure 2 of the paper.

    Args:
        sizes: of the stack.
        pos_dim: width of a position's encoding.
        causal: whether convolutions are.
        dropout: in feed-forward modules.
        skip: share of utterances that skip the layer.
    """

    def __init__(
        self, sizes: StackSizes, pos_dim: int, causal: bool, dropout: Scheduled, skip: Scheduled
    ) -> None:
        super().__init__()
        dim, hidden_dim = sizes.dim, sizes.feed_forward_dim
        self.attention_weights = AttentionWeights(sizes, pos_dim)
        self.attention1 = SelfAttention(sizes)
        self.attention2 = SelfAttention(sizes)
        self.nonlin_attention = NonlinAttention(dim)
        self.feed_forward1 = FeedForward(dim, hidden_dim * 3 // 4, dropout)
        self.feed_forward2 = FeedForward(dim, hidden_dim, dropout)
        self.feed_forward3 = FeedForward(dim, hidden_dim * 5 // 4, dropout)
        self.convolution1 = ConvolutionModule(dim, sizes.kernel_size, causal)
        self.convolution2 = ConvolutionModule(dim, sizes.kernel_size, causal)
        self.middle_bypass = Bypass(dim)
        self.bypass = Bypass(dim, skip)
        self.norm = BiasNorm(dim)
        self.adapter = AdapterSlot(dim)

        self.balancer_nonlin = Balancer(0.3, 0.7, Scheduled((0, 0.004), (4000, 0.02)), prob=0.05)
        self.balancer2 = Balancer(0.3, 0.7, Scheduled((0, 0.0), (4000, 0.1)), 2.0, prob=0.05)
        self.balancer3 = Balancer(0.3, 0.7, Scheduled((0, 0.0), (4000, 0.2)), 4.0, prob=0.05)
        self.balancer_norm = Balancer(0.45, 0.55, 0.2, 4.0)
        self.balancer = Balancer(0.45, 0.55, 0.1, 4.0)
        self.whiten = Whiten(whitening_limit(4.0, growth=3.0))

        self.skip_attention = self.skip_convolution = Scheduled((0, 0.2), (4000, 0.05), (16000, 0.0))
        self.skip_feed_forward = Scheduled((0, 0.1), (4000, 0.01), (50000, 0.0))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        before = x
        weights = self.attention_weights(x, context)
        keep = self._keep(x, self.skip_attention)
        x = x + self.feed_forward1(x)
        x = add(x, self.balancer_nonlin(self.nonlin_attention(x, weights)), keep)
        x = add(x, self.attention1(x, weights), keep)
        x = add(x, self.convolution1(x, context), self._keep(x, self.skip_convolution))
        x = add(x, self.balancer2(self.feed_forward2(x)), self._keep(x, self.skip_feed_forward))
        x = self.middle_bypass(before, x)
        x = add(x, self.attention2(x, weights), keep)
        x = add(x, self.convolution2(x, context), self._keep(x, self.skip_convolution))
        x = add(x, self.balancer3(self.feed_forward3(x)), self._keep(x, self.skip_feed_forward))
        x = self.adapter(self.norm(self.balancer_norm(x)))
        return self.whiten(self.balancer(self.bypass(before, x, context.keep)))

    def stream(self, x: Tensor, context: Context, state: LayerState) -> tuple[Tensor, LayerState]:
        """`forward` for a chunk (B, T, D) and what went before it; in evaluation."""
        before = x
        weights, key = self.attention_weights.stream(x, context, state.key)
        x = x + self.feed_forward1(x)
        change, nonlin_attention = self.nonlin_attention.stream(x, weights, state.nonlin_attention)
        x = x + change
        change, value1 = self.attention1.stream(x, weights, state.value1)
        x = x + change
        change, convolution1 = self.convolution1.stream(x, context, state.convolution1)
        x = x + change
        x = self.middle_bypass(before, x + self.feed_forward2(x))
        change, value2 = self.attention2.stream(x, weights, state.value2)
        x = x + change
        change, convolution2 = self.convolution2.stream(x, context, state.convolution2)
        x = x + change
        x = self.bypass(before, self.adapter(self.norm(x + self.feed_forward3(x))))
        return x, LayerState(key, nonlin_attention, value1, value2, convolution1, convolution2)

    def _keep(self, x: Tensor, rate: Scheduled) -> Tensor | None:
        """(B, 1, 1): 0 for utterances that skip a module, 1 for others; None if none does."""
        share = self.now(rate)
        if not self.training or share == 0:
            return None
        return (torch.rand(len(x), 1, 1, device=x.device) > share).to(x.dtype)


def add(x: Tensor, change: Tensor, keep: Tensor | None) -> Tensor:
    """x + change * keep."""
    return x + change if keep is None else torch.addcmul(x, change.to(x.dtype), keep)

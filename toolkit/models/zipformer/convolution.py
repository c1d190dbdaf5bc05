"""Convolution modules of Zipformer, offline and chunk-causal.

Dimensions: B batch, T frames, D width, K taps, L = K // 2 frames on each side of a tap in the middle.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.models.zipformer.attention import whitening_limit
from toolkit.models.zipformer.context import Context
from toolkit.nn.scheduled import Scheduled
from toolkit.nn.shaping import Balancer, Whiten
from toolkit.nn.swoosh import SwooshLinear


class ConvolutionModule(nn.Module):
    """Gated linear unit, depthwise convolution, SwooshR, linear layer."""

    def __init__(self, dim: int, kernel_size: int, causal: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = ChunkCausalDepthwise(dim, kernel_size) if causal else Depthwise(dim, kernel_size)
        self.out = SwooshLinear(dim, dim, "right", scale=0.05)
        self.balancer_gate = Balancer(
            Scheduled((0, 0.05), (8000, 0.025)),
            1.0,
            min_abs=1.5,
            max_abs=Scheduled((0, 5.0), (8000, 10.0)),
            columns=slice(dim, None),
        )
        self.balancer = Balancer(
            Scheduled((0, 0.1), (8000, 0.05)), 1.0, min_abs=Scheduled((0, 0.2), (20000, 0.5)), max_abs=10.0
        )
        self.whiten = Whiten(whitening_limit(7.5))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        convolved = self.depthwise(self._gate(x, context), context)
        return self.out(self.whiten(self.balancer(convolved)))

    def stream(self, x: Tensor, context: Context, cached: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` for a chunk and the L frames before it, (B, D, L), of what the convolution sees."""
        gated = torch.cat([cached.transpose(1, 2), self._gate(x, context)], dim=1)
        kept = gated[:, gated.shape[1] - cached.shape[2] :].transpose(1, 2)
        return self.out(self.depthwise.stream(gated, context)), kept

    def _gate(self, x: Tensor, context: Context) -> Tensor:
        gated = functional.glu(self.balancer_gate(self.expand(x)), dim=-1)
        return gated.masked_fill(~context.valid[:, :, None], 0.0)


class Depthwise(nn.Conv2d):
    """A depthwise convolution over time that leaves channels last: many times as fast on a CPU as a Conv1d."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, (kernel_size, 1), groups=dim)
        # The order in memory that its gradient will have; DistributedDataParallel wants both alike.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """(B, T, D) to (B, T, D), zeros taken to lie beyond both ends."""
        return self.convolve(x, self.kernel_size[0] // 2)

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        """(B, T, D) to (B, T + 2 * padding - K + 1, D), with `padding` zeros at both ends."""
        # (B, T, 1, D) in memory is (B, D, T, 1) in PyTorch's channels-last order: no copy.
        x = x[:, :, None].permute(0, 3, 1, 2)
        x = functional.conv2d(x, self.weight, self.bias, padding=(padding, 0), groups=self.groups)
        return x.permute(0, 2, 3, 1).squeeze(2)


class ChunkCausalDepthwise(nn.Module):
    """A causal convolution of half the width, plus one within each chunk whose scale depends on the place in it."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.causal = Depthwise(dim, kernel_size // 2 + 1)
        self.within = Depthwise(dim, kernel_size)
        self.edge_scale = nn.Parameter(torch.zeros(2, dim, kernel_size))
        nn.init.uniform_(self.causal.bias, -0.1, 0.1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) to (B, T, D); T is a multiple of the chunk."""
        # The causal one is to see zeros on the left alone; its last frames, which see them on the right, go.
        causal = self.causal.convolve(x, self.kernel_size // 2)[:, : x.shape[1]]
        return self._within(x, context) + causal

    def stream(self, x: Tensor, context: Context) -> Tensor:
        """L frames before a chunk and the chunk, (B, L + T, D), to (B, T, D)."""
        return self._within(x[:, self.kernel_size // 2 :], context) + self.causal.convolve(x, 0)

    def _within(self, x: Tensor, context: Context) -> Tensor:
        chunks = x.reshape(-1, context.chunk, x.shape[2])
        return self.within(chunks).view_as(x) * self._scale(context).to(x.dtype)

    def _scale(self, context: Context) -> Tensor:
        """(B, T, D): 1, plus what belongs to the distance from the chunk's start, plus to that from its end."""
        assert context.edges is not None
        from_start, from_end = context.edges
        # A row of zeros for all that is further away than the kernel is wide.
        first, last = functional.pad(self.edge_scale, (0, 1)).transpose(1, 2)
        last = torch.cat([last[:-1].flip(0), last[-1:]])
        reach = self.kernel_size
        return 1.0 + (
            functional.embedding(from_start.clamp(max=reach), first)
            + functional.embedding(from_end.clamp(0, reach), last)
        )

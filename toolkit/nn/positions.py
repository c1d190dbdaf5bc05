"""Positions for Transformers: convolutions over the frames, and biases by relative distance.

Dimensions: B batch, T frames, D model width, K kernel size, G groups, H heads, C width of a head, N buckets.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, gelu, layer_norm

from toolkit.nn.eager import eager_on_cpu, recorded
from toolkit.nn.fourier import fourier_convolve

WIDE = 64
"""Kernels from this size on go through the Fourier transform on CPUs, which at 128 takes a quarter of the time."""


class ConvPositions(nn.Module):
    """A wide grouped convolution, weight-normed over each of its taps (wav2vec 2.0, arXiv 2006.11477, section 2).

    An even kernel looks one frame further back than ahead.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.direction = nn.Parameter(torch.empty(dim, dim // groups, kernel_size))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.direction, std=math.sqrt(4 / (kernel_size * dim)))
        self.scale = nn.Parameter(self.direction.detach().norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T, D), zero where `valid` (B, T) is not, to what is to be added to it."""
        return gelu(convolve(x, self.weight(), self.bias, self.groups))

    def weight(self) -> Tensor:
        """(D, D / G, K), each tap of norm `scale`."""
        return self.direction * (self.scale / self.direction.norm(dim=(0, 1), keepdim=True))


class StackedConvPositions(nn.Module):
    """Several narrower convolutions, each followed by a norm and GELU (data2vec, arXiv 2202.03555)."""

    def __init__(self, dim: int, kernel_size: int, groups: int, num_layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size, groups=groups) for _ in range(num_layers))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T, D) and (B, T) bool, None if all are valid, to what is to be added."""
        for conv in self.convs:
            if valid is not None:
                x = x.masked_fill(~valid[:, :, None], 0.0)
            x = convolve(x, conv.weight, conv.bias, conv.groups)
            x = gelu(layer_norm(x, (conv.out_channels,)))
        return x


def convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """A convolution over the frames of (B, T, D) with weights (D, D / G, K), zeros around it, to (B, T, D)."""
    size = weight.shape[2]
    if eager_on_cpu(x) and size >= WIDE and _transformable(x, weight):
        return fourier_convolve(x, weight, groups) + bias
    y = conv1d(x.transpose(1, 2), weight, bias, padding=size // 2, groups=groups)
    return y[:, :, : x.shape[1]].transpose(1, 2)


def _transformable(x: Tensor, weight: Tensor) -> bool:
    """Whether both are of one type, and not in half precision, where rounding spectra would double the error."""
    precise = x.dtype in (torch.float32, torch.float64) and x.dtype == weight.dtype
    return precise and not torch.is_autocast_enabled("cpu")


class RelativeBias(nn.Module):
    """A learned number for each head and bucket of distances (WavLM, arXiv 2110.13900, section III.B)."""

    def __init__(self, num_heads: int, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.embedding = nn.Embedding(num_buckets, num_heads)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, frames: int) -> Tensor:
        """(H, T, T): for each query (second) and key (third)."""
        weight = self.embedding.weight
        distances = torch.arange(1 - frames, frames, device=weight.device)
        table = self.embedding(self.bucket(distances)).t()
        if recorded():
            # Windows would be recorded for one number of frames.
            index = distances[frames - 1 :]
            return table[:, index - index[:, None] + frames - 1]
        # Row i of the windows holds distances i - T + 1 to i: that of query T - 1 - i.
        return table.unfold(1, frames, 1).flip(1)

    def bucket(self, distances: Tensor) -> Tensor:
        """One bucket for each small distance, then ever wider ones up to the last; half of them for keys ahead."""
        half = self.num_buckets // 2
        exact = half // 2
        far = distances.abs()
        wide = torch.log(far.float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        wide = (exact + wide.clamp(min=0)).long().clamp(max=half - 1)
        return (distances > 0) * half + torch.where(far < exact, far, wide)


class BiasGate(nn.Module):
    """Scales the relative bias by what a query holds (WavLM, arXiv 2110.13900, equations 4 to 7)."""

    def __init__(self, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project = nn.Linear(head_width, 8)
        self.constant = nn.Parameter(torch.ones(1, num_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Inputs of the attention (B, T, D) and the bias (H, T, T) to (B, H, T, T)."""
        queries = x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
        gates = self.project(queries).view(*queries.shape[:3], 2, 4).sum(-1).sigmoid()
        update, reset = gates.split(1, dim=-1)
        return (update * (reset * self.constant - 1.0) + 2.0) * bias

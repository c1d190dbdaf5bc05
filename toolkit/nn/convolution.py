"""Convolutions that never let padding reach a valid frame.

Dimensions: B batch, T frames, F features, D model width.
"""

import torch
from torch import Tensor, nn

from toolkit.nn.dropout import Dropout
from toolkit.nn.masks import valid_mask


class DepthwiseConv(nn.Conv2d):
    """Convolution over time, each channel by itself; past an utterance's end it sees zeros, as it would alone."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__(dim, dim, (kernel_size, 1), padding=(kernel_size // 2, 0), groups=dim)
        # The order in memory that its gradient will have; DistributedDataParallel wants both alike.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T, D) and (B, T) bool, True for valid frames, None if all are, to (B, T, D)."""
        if valid is not None:
            x = x.masked_fill(~valid[:, :, None], 0.0)
        # (B, T, 1, D) in memory is (B, D, T, 1) in PyTorch's channels-last order: no copy, and on a CPU this runs at
        # ten times the speed of a depthwise Conv1d.
        x = super().forward(x[:, :, None].permute(0, 3, 1, 2))
        return x.permute(0, 2, 3, 1).squeeze(2)


class ConvolutionModule(nn.Module):
    """Pointwise, gated linear unit, depthwise, norm, SiLU, pointwise (Conformer, arXiv 2005.08100, figure 2).

    LayerNorm stands where the paper has BatchNorm: its output does not depend on the rest of the batch.
    """

    def __init__(self, dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConv(dim, kernel_size)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Convolves over time.

        Args:
            x: (B, T, D).
            valid: (B, T) bool, True for valid frames; None if all are.

        Returns:
            (B, T, D).
        """
        x = self.depthwise(nn.functional.glu(self.expand(x), dim=-1), valid)
        return self.dropout(self.project(nn.functional.silu(self.norm(x))))


class ConvSubsampling(nn.Module):
    """Convolutions of stride 2 over time and frequency, then a projection: a quarter or half of the frames.

    Frame i of the output is centred on input frame factor * i, and T_out = ceil(T / 2) after each convolution. With a
    factor of 1 there is the projection alone.
    """

    def __init__(self, num_features: int, channels: int, dim: int, factor: int = 4) -> None:
        super().__init__()
        if factor not in (1, 2, 4):
            raise ValueError(f"factor must be 1, 2 or 4, got {factor}")
        self.factor = factor
        stages = {1: 0, 2: 1, 4: 2}[factor]
        self.convs = nn.ModuleList(
            nn.Conv2d(1 if i == 0 else channels, channels, 3, stride=2, padding=1) for i in range(stages)
        )
        width = num_features
        for _ in range(stages):
            width = (width + 1) // 2
        self.project = nn.Linear(width * (channels if stages else 1), dim)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Subsamples features.

        Args:
            x: (B, T, F).
            lengths: (B,) valid frames.

        Returns:
            (B, ceil(T / factor), D) and the new lengths (B,).
        """
        x = x[:, None]
        for conv in self.convs:
            # Each convolution sees zeros past the end, as it would for the utterance alone.
            x = x * valid_mask(lengths, x.shape[2])[:, None, :, None]
            x = torch.relu(conv(x))
            lengths = (lengths + 1) // 2
        return self.project(x.transpose(1, 2).flatten(2)), lengths

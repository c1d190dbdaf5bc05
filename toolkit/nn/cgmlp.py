"""Convolutional gating: a feed-forward module in which neighbouring frames meet.

Dimensions: B batch, T frames, D model width, G width inside.
"""

from torch import Tensor, nn

from toolkit.nn.convolution import DepthwiseConv
from toolkit.nn.dropout import Dropout


class ConvolutionalGating(nn.Module):
    """Expansion, GELU, one half times a convolution over the other, projection (cgMLP, arXiv 2207.02971, figure 2)."""

    def __init__(self, dim: int, inner: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        if inner % 2:
            raise ValueError(f"inner must be even, got {inner}")
        self.expand = nn.Linear(dim, inner)
        self.norm = nn.LayerNorm(inner // 2)
        self.depthwise = DepthwiseConv(inner // 2, kernel_size)
        # At first the gate is open and frames do not meet, so that training begins as with a feed-forward module.
        nn.init.normal_(self.depthwise.weight, std=1e-6)
        nn.init.ones_(self.depthwise.bias)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(inner // 2, dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T, D) and (B, T) bool, True for valid frames, None if all are, to (B, T, D)."""
        content, gate = nn.functional.gelu(self.expand(x)).chunk(2, dim=-1)
        gate = self.depthwise(self.norm(gate), valid)
        return self.project(self.dropout(content * gate))

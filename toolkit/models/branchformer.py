"""Branchformer (Peng et al. 2022, arXiv 2207.02971) and E-Branchformer (Kim et al. 2022, arXiv 2210.00077).

Self-attention and convolutional gating look at the same frames side by side, and what they say is merged.

Dimensions: B batch, T frames, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.models.layered import LayeredConfig, LayeredEncoder, feed_forward
from toolkit.nn.adapter import AdapterSlot
from toolkit.nn.attention import RotaryAttention
from toolkit.nn.cgmlp import ConvolutionalGating
from toolkit.nn.convolution import DepthwiseConv
from toolkit.nn.dropout import Dropout


@dataclass
class BranchformerConfig(LayeredConfig):
    """Size and regularisation of a Branchformer."""

    name: str = "branchformer"
    """Which encoder this is."""
    gating_dim: int = 1536
    """Width inside the convolutional gating; even."""
    kernel_size: int = 31
    """Frames that the gating's convolution sees; odd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gating_dim % 2:
            raise ValueError(f"gating_dim must be even, got {self.gating_dim}")


@dataclass
class EBranchformerConfig(BranchformerConfig):
    """Size and regularisation of an E-Branchformer."""

    name: str = "e_branchformer"
    """Which encoder this is."""
    merge_kernel_size: int = 31
    """Frames that the merge's convolution sees; odd."""
    feed_forward_dim: int = 1024
    """Width inside the two feed-forward modules of a layer."""


class Branches(nn.Module):
    """Attention and convolutional gating, each with its norm, and their outputs side by side."""

    def __init__(self, config: BranchformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = RotaryAttention(config.dim, config.num_heads, config.attention_dropout)
        self.gating_norm = nn.LayerNorm(config.dim)
        self.gating = ConvolutionalGating(config.dim, config.gating_dim, config.kernel_size, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, 2 D)."""
        attended = self.attention(self.attention_norm(x), rotation, valid)
        gated = self.gating(self.gating_norm(x), valid)
        return self.dropout(torch.cat([attended, gated], dim=-1))


class BranchformerLayer(nn.Module):
    """Branches, merged by a projection and added to their input, norm (section 3.1)."""

    def __init__(self, config: BranchformerConfig) -> None:
        super().__init__()
        self.branches = Branches(config)
        self.merge = nn.Linear(2 * config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.adapter = AdapterSlot(config.dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `valid` is (B, T) bool, None if all frames are."""
        return self.adapter(self.norm(x + self.dropout(self.merge(self.branches(x, rotation, valid)))))


class EBranchformerLayer(nn.Module):
    """Half feed-forward, branches merged with a look at neighbouring frames, half feed-forward, norm (section 3)."""

    def __init__(self, config: EBranchformerConfig) -> None:
        super().__init__()
        self.feed_forward1 = feed_forward(config.dim, config.feed_forward_dim, config.dropout)
        self.branches = Branches(config)
        self.depthwise = DepthwiseConv(2 * config.dim, config.merge_kernel_size)
        self.merge = nn.Linear(2 * config.dim, config.dim)
        self.feed_forward2 = feed_forward(config.dim, config.feed_forward_dim, config.dropout)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.adapter = AdapterSlot(config.dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `valid` is (B, T) bool, None if all frames are."""
        x = x + 0.5 * self.feed_forward1(x)
        branches = self.branches(x, rotation, valid)
        x = x + self.dropout(self.merge(branches + self.depthwise(branches, valid)))
        return self.adapter(self.norm(x + 0.5 * self.feed_forward2(x)))


class BranchformerEncoder(LayeredEncoder):
    """Convolutional subsampling, then L Branchformer layers."""

    Config = BranchformerConfig
    Layer = BranchformerLayer


class EBranchformerEncoder(LayeredEncoder):
    """Convolutional subsampling, then L E-Branchformer layers."""

    Config = EBranchformerConfig
    Layer = EBranchformerLayer

"""Conformer encoder (Gulati et al. 2020, arXiv 2005.08100) with rotary positions.

Dimensions: B batch, T frames, F features, D model width, L layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.models.output import EncoderOutput
from toolkit.nn.attention import RotaryAttention, rotary_table
from toolkit.nn.convolution import ConvolutionModule, ConvSubsampling
from toolkit.nn.masks import valid_mask


@dataclass
class ConformerConfig:
    """Size and regularisation of a Conformer."""

    name: str = "conformer"
    """Which encoder this is."""
    dim: int = 256
    """D, width of the model."""
    num_layers: int = 6
    """L, number of layers."""
    num_heads: int = 4
    """Attention heads."""
    feed_forward_dim: int = 1024
    """Width inside the two feed-forward modules of a layer."""
    kernel_size: int = 15
    """Frames that a depthwise convolution sees; odd."""
    subsampling: int = 4
    """Feature frames to one encoder frame: 2 or 4."""
    subsampling_channels: int = 32
    """Channels of the subsampling convolutions."""
    dropout: float = 0.1
    """Dropout inside and after each module."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""

    def __post_init__(self) -> None:
        sizes = ("dim", "num_layers", "num_heads", "feed_forward_dim", "kernel_size", "subsampling_channels")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {self.dim} and {self.num_heads}")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.subsampling not in (2, 4):
            raise ValueError(f"subsampling must be 2 or 4, got {self.subsampling}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


class ConformerEncoder(nn.Module):
    """Convolutional subsampling, then L Conformer layers."""

    Config = ConformerConfig

    def __init__(self, config: ConformerConfig, num_features: int) -> None:
        super().__init__()
        self.dim = self.latent_dim = config.dim
        self.num_layers = config.num_layers
        self.subsampling = config.subsampling
        self.subsample = ConvSubsampling(
            num_features, config.subsampling_channels, config.dim, config.subsampling
        )
        self.embed_norm = nn.LayerNorm(config.dim)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_layers))
        self.head_width = config.dim // config.num_heads

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T', F) features and (B,) lengths to (B, T, D) and lengths, T = ceil(T' / subsampling)."""
        x, lengths = self.subsample(x, lengths)
        return self.embed_norm(x), lengths

    def encode(self, x: Tensor, lengths: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Embedded frames (B, T, D), lengths (B,) and a mask (B, T) to every layer's (B, T, D)."""
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        x = self.dropout(x)
        valid = valid_mask(lengths, x.shape[1])
        rotation = rotary_table(x.shape[1], self.head_width, x.device)
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], rotation, valid))
        return EncoderOutput(outputs[-1], lengths, outputs)

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Encoder frames for a number of feature frames, or for each of (B,) int64."""
        return (lengths + self.subsampling - 1) // self.subsampling

    latent_lengths = output_lengths


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm; each module is added to its input."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.feed_forward1 = feed_forward(config)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = RotaryAttention(config.dim, config.num_heads, config.attention_dropout)
        self.convolution_norm = nn.LayerNorm(config.dim)
        self.convolution = ConvolutionModule(config.dim, config.kernel_size, config.dropout)
        self.feed_forward2 = feed_forward(config)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D); `valid` is (B, T) bool."""
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, valid[:, None, None, :]))
        x = x + self.convolution(self.convolution_norm(x), valid)
        return self.norm(x + 0.5 * self.feed_forward2(x))


def feed_forward(config: ConformerConfig) -> nn.Sequential:
    """LayerNorm, expansion, SiLU, projection, with dropout."""
    return nn.Sequential(
        nn.LayerNorm(config.dim),
        nn.Linear(config.dim, config.feed_forward_dim),
        nn.SiLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.feed_forward_dim, config.dim),
        nn.Dropout(config.dropout),
    )

"""What the encoders of equal layers have in common: Conformer, Branchformer, E-Branchformer.

Dimensions: B batch, T frames, F features, D model width, L layers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from toolkit.models.output import EncoderOutput
from toolkit.nn.attention import rotary_table
from toolkit.nn.convolution import ConvSubsampling
from toolkit.nn.dropout import Dropout
from toolkit.nn.masks import valid_mask


@dataclass
class LayeredConfig:
    """Size and regularisation that all of them have."""

    name: str = ""
    """Which encoder this is."""
    dim: int = 256
    """D, width of the model."""
    num_layers: int = 6
    """L, number of layers."""
    num_heads: int = 4
    """Attention heads."""
    subsampling: int = 4
    """Feature frames to one encoder frame: 4, 2, or 1 for a front end that has the wanted rate."""
    subsampling_channels: int = 32
    """Channels of the subsampling convolutions."""
    dropout: float = 0.1
    """Dropout inside and after each module."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if name.endswith("kernel_size") and value % 2 == 0:
                raise ValueError(f"{name} must be odd, got {value}")
            if name.endswith("dropout") and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {self.dim} and {self.num_heads}")
        if self.subsampling not in (1, 2, 4):
            raise ValueError(f"subsampling must be 1, 2 or 4, got {self.subsampling}")


class LayeredEncoder(nn.Module):
    """Convolutional subsampling, then L layers of one kind with rotary positions."""

    Layer: ClassVar[type[nn.Module]]
    """Built as `Layer(config)`; takes (B, T, D), the rotation of `rotary_table` and (B, T) valid
    frames, None if all are."""

    def __init__(self, config: LayeredConfig, num_features: int) -> None:
        super().__init__()
        self.dim = self.latent_dim = config.dim
        self.num_layers = config.num_layers
        self.subsampling = config.subsampling
        self.subsample = ConvSubsampling(
            num_features, config.subsampling_channels, config.dim, config.subsampling
        )
        self.embed_norm = nn.LayerNorm(config.dim)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(self.Layer(config) for _ in range(config.num_layers))
        self.head_width = config.dim // config.num_heads

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T', F) features and (B,) lengths to (B, T, D) and lengths, T = ceil(T' / subsampling)."""
        x, lengths = self.subsample(x, lengths)
        return self.embed_norm(x), lengths

    def encode(
        self, x: Tensor, lengths: Tensor, mask: Tensor | None = None, padded: bool = True
    ) -> EncoderOutput:
        """Embedded frames (B, T, D), lengths (B,) and a mask (B, T) to every layer's (B, T, D); see `Encoder`."""
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        x = self.dropout(x)
        valid = valid_mask(lengths, x.shape[1]) if padded else None
        rotation = rotary_table(x.shape[1], self.head_width, x.device)
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], rotation, valid))
        return EncoderOutput(outputs[-1], lengths, outputs)

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Encoder frames for a number of feature frames, or for each of (B,) int64."""
        return (lengths + self.subsampling - 1) // self.subsampling

    latent_lengths = output_lengths


def feed_forward(dim: int, inner: int, dropout: float) -> nn.Sequential:
    """LayerNorm, expansion, SiLU, projection, with dropout."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, inner),
        nn.SiLU(),
        Dropout(dropout),
        nn.Linear(inner, dim),
        Dropout(dropout),
    )

"""Conformer encoder (Gulati et al. 2020, arXiv 2005.08100) with rotary positions.

Dimensions: B batch, T frames, D model width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from toolkit.models.layered import LayeredConfig, LayeredEncoder, feed_forward
from toolkit.nn.adapter import AdapterSlot
from toolkit.nn.attention import RotaryAttention
from toolkit.nn.convolution import ConvolutionModule
from toolkit.nn.dropout import Dropout


@dataclass
class ConformerConfig(LayeredConfig):
    """Size and regularisation of a Conformer."""

    name: str = "conformer"
    """Which encoder this is."""
    feed_forward_dim: int = 1024
    """Width inside the two feed-forward modules of a layer."""
    kernel_size: int = 15
    """Frames that a depthwise convolution sees; odd."""


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm; each module is added to its input."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.feed_forward1 = feed_forward(config.dim, config.feed_forward_dim, config.dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = RotaryAttention(config.dim, config.num_heads, config.attention_dropout)
        self.convolution_norm = nn.LayerNorm(config.dim)
        self.convolution = ConvolutionModule(config.dim, config.kernel_size, config.dropout)
        self.feed_forward2 = feed_forward(config.dim, config.feed_forward_dim, config.dropout)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.adapter = AdapterSlot(config.dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `valid` is (B, T) bool, None if all frames are."""
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, valid))
        x = x + self.convolution(self.convolution_norm(x), valid)
        return self.adapter(self.norm(x + 0.5 * self.feed_forward2(x)))


class ConformerEncoder(LayeredEncoder):
    """Convolutional subsampling, then L Conformer layers."""

    Config = ConformerConfig
    Layer = ConformerLayer

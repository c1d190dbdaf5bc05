"""Self-attention with rotary positions.

Dimensions: B batch, T frames, D model width, H heads, C = D / H width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose positions enter by rotation (RoFormer, arXiv 2104.09864, equation 34)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {dim} and {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], valid: Tensor | None) -> Tensor:
        """Attends within each utterance.

        Args:
            x: (B, T, D).
            rotation: cosines and sines from `rotary_table`, (T, C) each.
            valid: (B, T) bool, True for frames that may be attended to; None if all may.

        Returns:
            (B, T, D).
        """
        batch, frames, dim = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(
            rotate(query, rotation),
            rotate(key, rotation),
            value,
            attn_mask=None if valid is None else valid[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).reshape(batch, frames, dim))


def rotary_table(frames: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles position * 10000^(-2i / C), each repeated for both halves of a head.

    Returns:
        Two (T, C) float32 tensors.
    """
    rates = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates each pair (x_i, x_{i + C/2}) of (B, H, T, C) by its position's angle."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)

"""Self-attention with absolute positions or an additive bias.

Dimensions: B batch, T frames, D model width, H heads, C = D / H width of a head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import scaled_dot_product_attention

from toolkit.nn.dropout import keep_mask
from toolkit.nn.eager import eager_on_cpu
from toolkit.nn.masks import valid_mask


class Padding(NamedTuple):
    """Which frames of a batch are none, in the form that each way to compute attention wants."""

    valid: Tensor | None
    """(B, T) bool; None if no frame is padding."""
    lengths: list[int] | None
    """Valid frames of each utterance; None where they are on a device that would have to be waited for."""

    @classmethod
    def of(cls, lengths: Tensor, frames: int, padded: bool = True) -> "Padding":
        """From (B,) valid frames and T. That nothing is padded it sees only on a CPU; elsewhere it has to be told."""
        if not eager_on_cpu(lengths):
            return cls(valid_mask(lengths, frames) if padded else None, None)
        counts = lengths.tolist()
        return cls(None if min(counts) >= frames else valid_mask(lengths, frames), counts)


class SelfAttention(nn.Module):
    """Multi-head self-attention (arXiv 1706.03762, section 3.2); one matrix makes queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, padding: Padding, bias: Tensor | None = None) -> Tensor:
        """Attends within each utterance.

        Args:
            x: (B, T, D).
            padding: frames that nobody attends to.
            bias: (B, H, T, T) added to the scores of query (third) and key (fourth).

        Returns:
            (B, T, D).
        """
        batch, frames, dim = x.shape
        qkv = self.qkv(x).view(batch, frames, 3, self.num_heads, dim // self.num_heads)
        dropout = self.dropout if self.training else 0.0
        # PyTorch's fused kernel for CPUs knows no dropout.
        if dropout and bias is None and padding.lengths is not None and eager_on_cpu(x):
            return self.out(AttentionWithDropout.apply(qkv, padding.lengths, dropout))
        mask = None if padding.valid is None else padding.valid[:, None, None, :]
        if bias is not None:
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
            mask = mask.to(qkv.dtype)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(attended.transpose(1, 2).reshape(batch, frames, dim))


class AttentionWithDropout(torch.autograd.Function):
    """Attention with dropout on its weights, utterance by utterance, so that padding takes no time.

    The weights are computed again in the backward pass: what is kept is a byte for each, of the dropout.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, lengths: list[int], dropout: float) -> Tensor:
        """Queries, keys and values (B, T, 3, H, C), valid frames and the dropout to (B, T, D), zero in the padding."""
        batch, frames, _, heads, width = qkv.shape
        attended = qkv.new_zeros(batch, frames, heads, width)
        masks = []
        for row, length in enumerate(lengths):
            query, key, value = qkv[row, :length].permute(1, 2, 0, 3)
            masks.append(keep_mask(torch.Size((heads, length, length)), dropout))
            weights = _weights(query, key).mul_(masks[-1])
            attended[row, :length] = torch.bmm(weights, value).mul_(1 / (1 - dropout)).transpose(0, 1)
        ctx.save_for_backward(qkv, *masks)
        ctx.lengths, ctx.scale = lengths, 1 / (1 - dropout)
        return attended.flatten(2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of queries, keys and values."""
        qkv, *masks = ctx.saved_tensors
        heads, width = qkv.shape[3:]
        grad_qkv = torch.zeros_like(qkv)
        grad = (grad * ctx.scale).view(*grad.shape[:2], heads, width)
        for row, (length, mask) in enumerate(zip(ctx.lengths, masks, strict=True)):
            query, key, value = qkv[row, :length].permute(1, 2, 0, 3)
            target = grad_qkv[row, :length].permute(1, 2, 0, 3)
            above = grad[row, :length].transpose(0, 1)
            weights = _weights(query, key)
            scores = torch.bmm(above, value.transpose(1, 2)).mul_(mask)
            target[2] = torch.bmm((weights * mask).transpose(1, 2), above)
            # Through the softmax: w * (g - sum of w * g), the sum being that of output times gradient.
            torch.ops.aten._softmax_backward_data.out(scores, weights, 2, scores.dtype, grad_input=scores)
            scores.mul_(width**-0.5)
            target[0] = torch.bmm(scores, key)
            target[1] = torch.bmm(scores.transpose(1, 2), query)
        return grad_qkv, None, None


def _weights(query: Tensor, key: Tensor) -> Tensor:
    """(H, T, C) and (H, T, C) to (H, T, T), a distribution over keys for each query."""
    scores = torch.bmm(query * query.shape[2] ** -0.5, key.transpose(1, 2))
    return torch.softmax(scores, 2, out=scores)

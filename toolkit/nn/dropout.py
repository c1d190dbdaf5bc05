"""Dropout whose masks are cheap on CPUs.

PyTorch draws a double for every element, on one thread, and keeps a float of it for the backward pass: with dropout at
the usual places that is a tenth of the time of a Transformer's training step. Here an element takes 16 random bits and
a byte.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from toolkit.nn.eager import eager_on_cpu


class Dropout(nn.Module):
    """Sets a share `p` of the elements to zero in training, and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of any shape to one of the same shape."""
        if not self.training or self.p == 0:
            return x
        if eager_on_cpu(x):
            return MaskedScale.apply(x, keep_mask(x.shape, self.p), 1 / (1 - self.p))
        return nn.functional.dropout(x, self.p)


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """A tensor of uint8 on the CPU, 0 with probability `p` (rounded to a multiple of 2^-16), else 1."""
    count = shape.numel()
    # An empty upper end means all 64 bits: four elements a number.
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[:count].view(shape) >= round(p * 2**16) - 2**15).view(torch.uint8)


class MaskedScale(torch.autograd.Function):
    """x * mask * scale, which keeps nothing but the mask."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        """The product."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient by the same mask and scale."""
        return (grad * ctx.saved_tensors[0]).mul_(ctx.scale), None, None

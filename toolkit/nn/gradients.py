"""Changes to gradients that leave values as they are."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself; its gradient is multiplied by `factor` on the way back."""
    return x if factor == 1.0 else ScaledGradient.apply(x, factor)


class ScaledGradient(torch.autograd.Function):
    """See `scale_gradient`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, factor: float) -> Tensor:
        """A view of x."""
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor."""
        return grad * ctx.factor, None

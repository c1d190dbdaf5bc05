"""The Swoosh activations of Zipformer (arXiv 2310.11230, equations 3 and 4), keeping little for backward.

    SwooshL(x) = log(1 + exp(x - 4)) - 0.08 x - 0.035
    SwooshR(x) = log(1 + exp(x - 1)) - 0.08 x - 0.313261687

Both keep their input alone and work the derivative out again from it, exactly. Eight bits for the derivative, as
icefall has them, would be smaller than the input, but the input is kept in any case: by the balancer before it, and by
`SwooshLinear`, which needs the activation's value again. So the exact derivative costs no memory, and no random
numbers for the rounding. All compute in float32, also for double inputs; only the product of `SwooshLinear` is in its
input's type.

Dimensions: B batch, T frames, C input channels, D output channels.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from toolkit.nn.eager import exporting

Kind = Literal["left", "right"]

SHIFT = {"left": 4.0, "right": 1.0}
OFFSET = {"left": 0.035, "right": 0.313261687}
SLOPE = 0.08


def swoosh_l(x: Tensor) -> Tensor:
    """SwooshL of every element: almost linear with slope -0.08 up to 2 or 3; for modules that are normally off."""
    return _Swoosh.apply(x, "left")


def swoosh_r(x: Tensor) -> Tensor:
    """SwooshR of every element: 0 at 0, for convolutions."""
    return _Swoosh.apply(x, "right")


class SwooshLinear(nn.Linear):
    """Swoosh, dropout whose mask is shared over time, and a linear layer, as one operation that keeps its input alone.

    Args:
        dim: C.
        output_dim: D.
        kind: which Swoosh.
        scale: what the weights are multiplied by at the start.
    """

    def __init__(self, dim: int, output_dim: int, kind: Kind, scale: float = 1.0) -> None:
        super().__init__(dim, output_dim)
        self.kind: Kind = kind
        shrink(self, scale)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(..., C) to (..., D).

        Args:
            x: (..., C).
            keep: what the activation is multiplied by, such as a dropout mask; broadcasts with x.
        """
        return _SwooshLinear.apply(x, keep, self.weight, self.bias, self.kind)


def shrink(layer: nn.Linear | nn.Conv2d, scale: float) -> None:
    """Makes a layer's initial weights smaller, for outputs that should not contribute much at first."""
    with torch.no_grad():
        layer.weight.mul_(scale)
        if layer.bias is not None:
            layer.bias.uniform_(-0.1 * scale, 0.1 * scale)


def value(x: Tensor, kind: Kind) -> Tensor:
    """Swoosh without a graph; in float32 inside."""
    x = x.float()
    shifted = x - SHIFT[kind]
    grown = _composed_softplus(shifted) if exporting() else softplus(shifted)
    return grown.add_(x, alpha=-SLOPE).sub_(OFFSET[kind])


def _composed_softplus(x: Tensor) -> Tensor:
    """Softplus of operations that onnxruntime has fast kernels for; its own takes as long as all matrix products."""
    return torch.maximum(x, (1.0 + x.clamp(max=30.0).exp()).log())


def slope(x: Tensor, kind: Kind) -> Tensor:
    """The derivative of Swoosh, in float32."""
    return (x.float() - SHIFT[kind]).sigmoid_().sub_(SLOPE)


class _Swoosh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Kind) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(x)
        return value(x, kind).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return slope(x, ctx.kind).mul_(grad).to(x.dtype), None


class _SwooshLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor | None, weight: Tensor, bias: Tensor, kind: Kind) -> Tensor:
        ctx.kind, ctx.bias_dtype = kind, bias.dtype
        ctx.save_for_backward(x, keep, weight)
        return linear(_active(x, keep, kind), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, weight = ctx.saved_tensors
        x_grad = weight_grad = bias_grad = None
        outer = grad.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            x_grad = slope(x, ctx.kind).mul_(grad @ weight.to(grad.dtype))
            x_grad = (x_grad if keep is None else x_grad.mul_(keep)).to(x.dtype)
        if ctx.needs_input_grad[2]:
            active = _active(x, keep, ctx.kind).flatten(0, -2)
            weight_grad = (outer.T @ active.to(grad.dtype)).to(weight.dtype)
        if ctx.needs_input_grad[3]:
            bias_grad = outer.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return x_grad, None, weight_grad, bias_grad, None


def _active(x: Tensor, keep: Tensor | None, kind: Kind) -> Tensor:
    active = value(x, kind)
    return (active if keep is None else active.mul_(keep)).to(x.dtype)

"""BiasNorm of Zipformer (arXiv 2310.11230, equation 2): y = x exp(g) / rms(x - b).

Dimensions: B batch, T frames, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toolkit.nn.shaping import limit

LEAST = 1e-20
"""Of the mean square, so that x = b does not divide by zero."""


class BiasNorm(nn.Module):
    """Scales each frame to a learned length, after taking off a learned bias for measuring alone.

    Unlike LayerNorm it keeps the mean, and the bias lets a frame have a large constant channel without need.
    It keeps its input and one number a frame for backward, and computes in float32, also for double inputs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        log_scale = limit(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        return _BiasNorm.apply(x, self.bias, log_scale)


class _BiasNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, log_scale: Tensor) -> Tensor:
        centred = x.float() - bias.float()
        mean = centred.square().mean(-1, keepdim=True)
        inverse = mean.clamp(min=LEAST).rsqrt()
        ctx.save_for_backward(x, bias, log_scale, inverse)
        return (x * (inverse * log_scale.float().exp())).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, log_scale, inverse = ctx.saved_tensors
        scale = inverse * log_scale.float().exp()
        grad = grad.float()
        # d loss / d scale, then through scale = exp(g) / sqrt(mean((x - b)^2)).
        along = (grad * x.float()).sum(-1, keepdim=True) * scale
        x_grad = bias_grad = log_scale_grad = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            pulled = (x.float() - bias.float()) * (along * inverse.square() / x.shape[-1])
            if ctx.needs_input_grad[0]:
                x_grad = torch.addcmul(-pulled, grad, scale).to(x.dtype)
            if ctx.needs_input_grad[1]:
                bias_grad = pulled.flatten(0, -2).sum(0).to(bias.dtype)
        if ctx.needs_input_grad[2]:
            log_scale_grad = along.sum().to(log_scale.dtype)
        return x_grad, bias_grad, log_scale_grad

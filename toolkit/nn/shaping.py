"""Operations that change nothing forward and shape gradients backward, to keep Zipformer's activations in bounds.

They are for training mode: whoever uses them leaves them out otherwise. Whether one acts in a step is a matter of
chance, drawn from PyTorch's CPU generator, so that a seeded step can be repeated, and no GPU is waited for. Statistics
are over all frames of a batch, padding included.

Source: icefall's Zipformer (arXiv 2310.11230, section 3.5 for the aims of Balancer and Whitener).

Dimensions: N frames of a batch, C channels, G groups of channels.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toolkit.nn.scheduled import Clocked, Scheduled

TINY = 1e-20
LEAST_SQUARE = 1e-10
"""Of a channel, so that the inverse of its third power stays finite in float32."""
ALL = slice(None)


def happens(prob: float) -> bool:
    """A decision for the whole batch, by PyTorch's CPU generator."""
    return prob > 0 and torch.rand(()).item() < prob


class Balancer(nn.Module, Clocked):
    """Pushes each channel's share of positive values and its size into a range.

    Both are measured as for a normal distribution: the share of positive values as mean / deviation, the size as root
    mean square. Where one is out of its range, the gradient of the distance to it is added to each gradient, scaled to
    `STRENGTH` of that gradient's own size.

    Args:
        min_positive: least share of positive values.
        max_positive: greatest share of positive values.
        min_abs: least mean absolute value.
        max_abs: greatest mean absolute value.
        prob: how often it acts.
        columns: which channels it looks at.
    """

    STRENGTH = 0.04

    def __init__(
        self,
        min_positive: float | Scheduled = 0.05,
        max_positive: float | Scheduled = 0.95,
        min_abs: float | Scheduled = 0.2,
        max_abs: float | Scheduled = 100.0,
        prob: float | Scheduled | None = None,
        columns: slice = ALL,
    ) -> None:
        super().__init__()
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.prob = Scheduled((0, 0.5), (8000, 0.125)) if prob is None else prob
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) unchanged."""
        if not (self.training and x.requires_grad and happens(self.now(self.prob))):
            return x
        means = [_standard_mean(self.now(share)) for share in (self.min_positive, self.max_positive)]
        # A normal distribution's root mean square is sqrt(pi / 2) times its mean absolute value.
        sizes = [math.sqrt(math.pi / 2) * self.now(size) for size in (self.min_abs, self.max_abs)]
        return _Balance.apply(x, *means, *sizes, self.STRENGTH, self.columns)


class Whiten(nn.Module, Clocked):
    """Pushes the covariance of channels towards a multiple of the identity.

    Where mean(lambda^2) / mean(lambda)^2 of its eigenvalues lambda is over a limit, the gradient of that ratio is
    added, scaled to a share of the norm of the whole gradient. To keep no state and wait for no GPU, it acts with
    probability `PROB` however white the channels are.

    Args:
        groups: G; each group of channels has its own covariance.
        limit: of the ratio, which is 1 at best.
        strength: of the addition, at a probability of a quarter.
        columns: which channels it looks at.
    """

    PROB = 0.125

    def __init__(
        self, limit: float | Scheduled, strength: float = 0.01, groups: int = 1, columns: slice = ALL
    ) -> None:
        super().__init__()
        self.limit, self.strength, self.groups, self.columns = limit, strength, groups, columns

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) unchanged."""
        if not (self.training and x.requires_grad and happens(self.PROB)):
            return x
        strength = self.strength * 0.25 / self.PROB
        return _Whiten.apply(x, self.groups, self.now(self.limit), strength, self.columns)


def limit(x: Tensor, least: float, greatest: float, prob: float = 0.6) -> Tensor:
    """Parameters x unchanged; backward, gradients that would move those out of range further out are turned round."""
    return _Limit.apply(x, least, greatest) if x.requires_grad and happens(prob) else x


def _standard_mean(share: float) -> float:
    """The mean of a normal distribution of deviation 1 that is positive with this probability, roughly."""
    doubled = 2 * share - 1
    # The inverse error function is about atanh / (sqrt(pi) ln 2); exact enough well inside (-1, 1), finite at its ends.
    return 0.8139535143 * (math.log(1 + doubled + 1e-10) - math.log(1 - doubled + 1e-10)) / 2


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *settings: Any) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        *bounds, strength, columns = ctx.settings
        x = x[..., columns].float()
        offset, factor = _balancing(x.flatten(0, -2), *bounds, strength)
        return _added(grad, columns, torch.addcmul(offset, x, factor), relative=True), *[None] * 6


def _balancing(
    x: Tensor,
    least_mean: float,
    greatest_mean: float,
    least_size: float,
    greatest_size: float,
    strength: float,
) -> tuple[Tensor, Tensor]:
    """The penalty's gradient for x (N, C) is offset + factor * x, as mean and size alone enter it: two (C,)."""
    mean = x.mean(0)
    square = torch.linalg.vector_norm(x, dim=0).square().div(len(x))
    variance = (square - mean * mean).clamp(min=LEAST_SQUARE)
    deviation = variance.sqrt()
    size = square.clamp(min=LEAST_SQUARE).sqrt()
    standard = mean / deviation
    # |m - clamp(m)| with m = mean / deviation, and |log(clamp(size) / size)|: their slopes are 1 or -1 outside.
    side = (standard > greatest_mean).float() - (standard < least_mean).float()
    size_side = (size > greatest_size).float() - (size < least_size).float()
    tilt = side * mean / (variance * deviation)
    offset = side / deviation + tilt * mean
    factor = size_side / (size * size) - tilt
    rms = ((offset + factor * mean).square() + factor.square() * variance).sqrt()
    scale = strength / rms.clamp(min=TINY)
    return offset * scale, factor * scale


class _Whiten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *settings: Any) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        groups, bound, strength, columns = ctx.settings
        part = x[..., columns]
        ratio, direction = _whitening(part.flatten(0, -2).float().unflatten(1, (groups, -1)))
        size = torch.linalg.vector_norm(grad[..., columns].float())
        share = strength * size / (torch.linalg.vector_norm(direction) + TINY)
        push = direction * torch.where(ratio < bound, 0.0, share)
        return _added(grad, columns, push.reshape(part.shape), relative=False), *[None] * 4


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """The ratio that `Whiten` limits for x (N, G, C / G), and a multiple of its gradient, of that shape."""
    x = (x - x.mean(0)).transpose(0, 1)
    covariance = x.mT @ x
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean()
    square = covariance.square().sum() / diagonal.numel()
    gradient = covariance.clone()
    gradient.diagonal(dim1=1, dim2=2).sub_(square / (mean + TINY))
    return square / (mean * mean + TINY), (x @ gradient).transpose(0, 1)


def _added(grad: Tensor, columns: slice, push: Tensor, relative: bool) -> Tensor:
    """A gradient with a push, or that many times its size, added to some of its channels."""
    part = grad[..., columns].float()
    part = torch.addcmul(part, part.abs(), push) if relative else part + push
    if columns == ALL:
        return part.to(grad.dtype)
    grad = grad.clone()
    grad[..., columns] = part
    return grad


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float, greatest: float) -> Tensor:
        ctx.range = least, greatest
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        least, greatest = ctx.range
        grad = torch.where(x < least, -grad.abs(), grad)
        return torch.where(x > greatest, grad.abs(), grad), None, None

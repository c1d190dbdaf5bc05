"""Strided convolutions over time as matrix products, frames first and channels last.

Dimensions: B batch, S samples, T input frames, N output frames, I input channels, O output channels, K kernel size.

A window that starts every `stride` frames is a row of a matrix whose rows overlap in memory. Cut into pieces of
`stride` taps the rows no longer overlap, so each piece is a matrix product on the input as it lies there: nothing is
copied or transposed, and norms and linear layers find channels last.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import gelu, linear

from toolkit.nn.eager import exporting, recorded
from toolkit.nn.masks import valid_mask


class StridedConv(nn.Module):
    """Convolution without padding of the GELU of its input.

    The activation belongs to the convolution that follows it so that its result need not be kept for the backward
    pass: it is computed again, which costs little beside the convolution and halves the memory of a deep stack.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, bias: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, I) to (B, N, O), N = (T - K) // stride + 1."""
        if recorded():
            return self._recorded(x)
        # In half precision under autocast, which does not reach inside the function below.
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        bias = None if self.bias is None else self.bias.to(dtype)
        return ConvOfGelu.apply(x.to(dtype).contiguous(), self.weight.to(dtype), bias, self.stride)

    def _recorded(self, x: Tensor) -> Tensor:
        """The same without `ConvOfGelu`: a compiler decides by itself what is computed again.

        One product of whole windows, which are written as the activation is.
        """
        taps = shifts(gelu(x), self.weight.shape[2], self.stride)
        return linear(torch.cat(taps, dim=2), self.weight.transpose(1, 2).flatten(1), self.bias)


class ConvOfGelu(torch.autograd.Function):
    """`StridedConv` as one node of the graph; keeps nothing but its inputs."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """See `StridedConv.forward`."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.has_bias = stride, bias is not None
        frames = (x.shape[1] - weight.shape[2]) // stride + 1
        activated = gelu(x)
        y = x.new_empty(len(x), frames, len(weight))
        for index, (taps, rows) in enumerate(pieces(activated, weight, stride, frames)):
            matrix = taps.flatten(1).t().expand(len(x), -1, -1)
            if index:
                y.baddbmm_(rows, matrix)
            else:
                torch.bmm(rows, matrix, out=y)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of the input, the weight and the bias."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        frames = grad.shape[1]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            found = [
                torch.bmm(grad.transpose(1, 2), rows).sum(0).view(taps.shape)
                for taps, rows in pieces(gelu(x), weight, ctx.stride, frames)
            ]
            grad_weight = torch.cat(found, 1).transpose(1, 2)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1))
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            # The first piece writes whole strides; what lies behind them it does not reach.
            grad_x[:, frames * ctx.stride :] = 0.0
            for index, (taps, rows) in enumerate(pieces(grad_x, weight, ctx.stride, frames)):
                matrix = taps.flatten(1).expand(len(x), -1, -1)
                if index:
                    rows.baddbmm_(grad, matrix)
                else:
                    torch.bmm(grad, matrix, out=rows)
            torch.ops.aten.gelu_backward.grad_input(grad_x, x, grad_input=grad_x)
        return grad_x, grad_weight, grad_bias, None


def shifts(x: Tensor, kernel_size: int, stride: int) -> list[Tensor]:
    """What each of K taps sees of (B, T, ...), as (B, N, ...) each."""
    last = x.shape[1] - kernel_size
    return [x[:, tap : last + tap + 1 : stride] for tap in range(kernel_size)]


def pieces(x: Tensor, weight: Tensor, stride: int, frames: int) -> list[tuple[Tensor, Tensor]]:
    """Cuts windows into pieces of `stride` taps (the last may be shorter).

    Args:
        x: (B, T, I), contiguous.
        weight: (O, I, K).
        stride: frames from one window to the next.
        frames: N, number of windows.

    Returns:
        For each piece of P taps the weights (O, P, I), and the part of each window (B, N, P * I), a view of x.
    """
    found = []
    channels, kernel_size = weight.shape[1:]
    strides = x.stride(0), stride * channels, 1
    for start in range(0, kernel_size, stride):
        taps = weight[:, :, start : start + stride].transpose(1, 2)
        size = len(x), frames, taps.shape[1] * channels
        found.append((taps, x.as_strided(size, strides, x.storage_offset() + start * channels)))
    return found


class FirstConv(nn.Module):
    """The convolution that reads samples; its output may be normalised over each utterance's valid frames.

    The normalisation is GroupNorm with one channel a group (arXiv 2006.11477, section 4.2), with padding left out. As
    the convolution is linear, the mean and variance of every channel follow from those of the K samples of a window, so
    the norm is folded into the weights of each utterance: there is no pass over the frames and nothing of it to keep.
    """

    def __init__(self, out_channels: int, kernel_size: int, stride: int, bias: bool, norm: bool) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, 1, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.norm = nn.GroupNorm(out_channels, out_channels) if norm else None
        nn.init.kaiming_normal_(self.weight)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) samples and (B,) valid output frames to (B, N, O)."""
        kernel_size = self.weight.shape[2]
        if exporting():
            windows = torch.stack(shifts(waveforms, kernel_size, self.stride), dim=2)
        else:
            windows = waveforms.unfold(1, kernel_size, self.stride)
        if self.norm is None:
            return linear(windows, self.weight[:, 0], self.bias)
        scale, shift = self.fold(windows, lengths)
        # One product for both: the last column of the windows is 1.
        matrix = torch.cat([scale * self.weight[:, 0].t(), shift], 1)
        return torch.bmm(torch.nn.functional.pad(windows, (0, 1), value=1.0), matrix)

    def fold(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the norm multiplies each channel by and adds to it: two (B, 1, O).

        Args:
            windows: (B, N, K) samples.
            lengths: (B,) valid windows.
        """
        valid = valid_mask(lengths, windows.shape[1])[:, :, None]
        count = lengths.clamp(min=1)[:, None, None]
        # In double precision: a filter that removes most of a signal leaves a small difference of large numbers.
        windows, weight = windows.double(), self.weight[:, 0].double().expand(windows.shape[0], -1, -1)
        mean = (windows * valid).sum(1, keepdim=True) / count
        centred = (windows - mean) * valid
        with torch.autocast(windows.device.type, enabled=False):
            covariance = torch.bmm(centred.transpose(1, 2), centred) / count
            variance = (torch.bmm(weight, covariance) * weight).sum(2)[:, None]
            mean = torch.bmm(mean, weight.transpose(1, 2))
        if self.bias is not None:
            mean = mean + self.bias
        scale = self.norm.weight / (variance + self.norm.eps).sqrt()
        shift = self.norm.bias - mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return scale.to(self.weight.dtype), shift.to(self.weight.dtype)

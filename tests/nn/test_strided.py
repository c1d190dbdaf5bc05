"""Strided convolutions by matrix products against PyTorch's, forward and backward."""

import pytest
import torch
from torch.nn.functional import conv1d, gelu, group_norm

from toolkit.nn.gradients import scale_gradient
from toolkit.nn.strided import FirstConv, StridedConv


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 2), (1, 1), (3, 1), (10, 5), (4, 4)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frames", [20, 23])
def test_strided_convolution(kernel, stride, bias, frames):
    torch.manual_seed(0)
    conv = StridedConv(4, 6, kernel, stride, bias).double()
    if bias:
        torch.nn.init.normal_(conv.bias)
    x = torch.randn(3, frames, 4, dtype=torch.float64, requires_grad=True)
    expected = conv1d(gelu(x).transpose(1, 2), conv.weight, conv.bias, stride).transpose(1, 2)
    found = conv(x)
    torch.testing.assert_close(found, expected)
    inputs = [x, *conv.parameters()]
    grad = torch.randn_like(found)
    for mine, reference in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_frozen_input_and_frozen_weight():
    conv = StridedConv(4, 6, 3, 2, bias=True)
    conv(torch.randn(1, 9, 4)).sum().backward()
    assert conv.weight.grad.abs().sum() > 0 and torch.equal(conv.bias.grad, torch.full((6,), 4.0))
    conv.requires_grad_(False)
    x = torch.randn(1, 9, 4, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_first_convolution(bias, norm):
    torch.manual_seed(0)
    conv = FirstConv(6, 10, 5, bias, norm)
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter)
    # Loud and low: what the filters leave of it is small.
    waveforms = torch.randn(2, 200).cumsum(1) + 30.0
    lengths = torch.tensor([39, 20])
    found = conv(waveforms, lengths)
    grads = torch.autograd.grad(found[0].sin().sum() + found[1, :20].sin().sum(), list(conv.parameters()))
    total = 0
    for row, length in enumerate(lengths.tolist()):
        samples = waveforms[row : row + 1, : 5 + 5 * length].double()
        expected = conv1d(samples[:, None], conv.weight.double(), conv.bias.double() if bias else None, 5)
        if norm:
            expected = group_norm(expected, 6, conv.norm.weight.double(), conv.norm.bias.double())
        torch.testing.assert_close(found[row, :length].double(), expected[0].t(), atol=1e-4, rtol=1e-4)
        total = total + expected.sin().sum()
    for mine, reference in zip(grads, torch.autograd.grad(total, list(conv.parameters())), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-3, rtol=1e-3)


def test_scaled_gradient():
    x = torch.ones(3, requires_grad=True)
    assert torch.equal(scale_gradient(x, 0.5), x) and scale_gradient(x, 1.0) is x
    scale_gradient(x, 0.5).sum().backward()
    assert x.grad.tolist() == [0.5] * 3

"""Convolution through the Fourier transform against the plain one."""

import pytest
import torch
from torch.nn.functional import conv1d

from toolkit.nn.fourier import fourier_convolve


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("frames", [1, 9, 65, 200])
def test_equal_to_the_plain_convolution(size, frames):
    torch.manual_seed(0)
    x = torch.randn(2, frames, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 4, size, dtype=torch.float64, requires_grad=True)
    expected = conv1d(x.transpose(1, 2), weight, padding=size // 2, groups=3)[:, :, :frames].transpose(1, 2)
    found = fourier_convolve(x, weight, groups=3)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for mine, reference in zip(
        torch.autograd.grad(found, [x, weight], grad),
        torch.autograd.grad(expected, [x, weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)


def test_single_precision_is_kept():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 300, 24), torch.randn(24, 12, 128) / 40
    expected = conv1d(x.double().transpose(1, 2), weight.double(), padding=64, groups=2)[:, :, :300]
    torch.testing.assert_close(
        fourier_convolve(x, weight, 2).double(), expected.transpose(1, 2), atol=1e-5, rtol=1e-5
    )

"""Convolutional gating against sums written out, and its beginning."""

import pytest
import torch

from toolkit.nn.cgmlp import ConvolutionalGating


def make(kernel_size=3, dim=4, inner=6):
    torch.manual_seed(0)
    return ConvolutionalGating(dim, inner, kernel_size, dropout=0.0).double()


def test_it_equals_the_sums():
    module = make()
    torch.nn.init.normal_(module.depthwise.weight)
    torch.nn.init.normal_(module.norm.weight)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    lengths = [5, 3]
    valid = torch.arange(5) < torch.tensor(lengths)[:, None]
    found = module(x, valid)
    for row, length in enumerate(lengths):
        hidden = torch.nn.functional.gelu(module.expand(x[row, :length]))
        content, gate = hidden[:, :3], hidden[:, 3:]
        gate = (gate - gate.mean(1, keepdim=True)) / (gate.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        gate = gate * module.norm.weight + module.norm.bias
        for frame in range(length):
            opened = module.depthwise.bias.clone()
            for tap in range(3):
                if 0 <= frame + tap - 1 < length:
                    opened = opened + module.depthwise.weight[:, 0, tap, 0] * gate[frame + tap - 1]
            expected = module.project(content[frame] * opened)
            torch.testing.assert_close(found[row, frame], expected)


def test_the_gate_is_open_at_first():
    module = make(kernel_size=31)
    x = torch.randn(1, 40, 4, dtype=torch.float64)
    content = torch.nn.functional.gelu(module.expand(x))[..., :3]
    torch.testing.assert_close(module(x, None), module.project(content), atol=1e-4, rtol=0)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="inner must be even, got 5"):
        make(inner=5)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        make(kernel_size=2)

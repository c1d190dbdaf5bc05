"""Convolutions against plain ones in double precision, one utterance at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from toolkit.nn.convolution import ConvolutionModule, ConvSubsampling
from toolkit.nn.masks import valid_mask


def module_reference(module, x):
    """The module on one utterance (T, D), written as in the paper."""
    weights = {name: tensor.double() for name, tensor in module.state_dict().items()}
    x = functional.linear(x.double(), weights["expand.weight"], weights["expand.bias"])
    half = x.shape[1] // 2
    x = x[:, :half] * torch.sigmoid(x[:, half:])
    kernel = weights["depthwise.weight"].squeeze(-1)
    size = kernel.shape[2]
    x = functional.conv1d(x.T[None], kernel, weights["depthwise.bias"], padding=size // 2, groups=half)[0].T
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    x = (x - mean) / (variance + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
    x = x * torch.sigmoid(x)
    return functional.linear(x, weights["project.weight"], weights["project.bias"])


@pytest.mark.parametrize("kernel_size", [1, 5, 15])
def test_module_equals_a_plain_convolution_of_each_utterance(kernel_size):
    torch.manual_seed(0)
    module = ConvolutionModule(dim=6, kernel_size=kernel_size, dropout=0.3).eval()
    torch.nn.init.normal_(module.norm.bias)
    lengths = torch.tensor([11, 4, 1])
    x = torch.randn(3, 11, 6)
    found = module(x, valid_mask(lengths, 11))
    for row, length in enumerate(lengths.tolist()):
        expected = module_reference(module, x[row, :length])
        torch.testing.assert_close(found[row, :length].double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(x[:1], None), found[:1])


def subsampling_reference(module, x):
    """(T, F) features of one utterance; zeros past its end are those of the convolution's own padding."""
    x = x.double()[None, None]
    for conv in module.convs:
        x = functional.conv2d(x, conv.weight.double(), conv.bias.double(), stride=2, padding=1).relu()
    x = x[0].transpose(0, 1).flatten(1)
    return functional.linear(x, module.project.weight.double(), module.project.bias.double())


@pytest.mark.parametrize("factor", [2, 4])
@given(lengths=st.lists(st.integers(1, 23), min_size=1, max_size=4))
def test_subsampling_equals_a_plain_convolution_of_each_utterance(factor, lengths):
    torch.manual_seed(0)
    module = ConvSubsampling(num_features=7, channels=3, dim=5, factor=factor)
    x = torch.randn(len(lengths), max(lengths), 7)
    found, new_lengths = module(x, torch.tensor(lengths))
    assert found.shape == (len(lengths), -(-max(lengths) // factor), 5)
    assert new_lengths.tolist() == [-(-length // factor) for length in lengths]
    for row, length in enumerate(lengths):
        expected = subsampling_reference(module, x[row, :length])
        assert len(expected) == new_lengths[row]
        torch.testing.assert_close(found[row, : len(expected)].double(), expected, atol=1e-5, rtol=1e-5)


def test_frames_are_centred_on_multiples_of_the_factor():
    """The field of view of output frame i is symmetric around input frame factor * i."""
    for factor, reach in ((2, 1), (4, 3)):
        module = ConvSubsampling(num_features=4, channels=2, dim=3, factor=factor)
        for conv in module.convs:
            torch.nn.init.ones_(conv.weight)
        x = torch.zeros(1, 41, 4, requires_grad=True)
        module(x + 1, torch.tensor([41]))[0][0, 5].sum().backward()
        seen = x.grad[0].abs().sum(1).nonzero().flatten()
        assert (seen.min(), seen.max()) == (5 * factor - reach, 5 * factor + reach)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        ConvolutionModule(4, 4, 0.0)
    with pytest.raises(ValueError, match="factor must be 1, 2 or 4, got 3"):
        ConvSubsampling(80, 4, 4, 3)

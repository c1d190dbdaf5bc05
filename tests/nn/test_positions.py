"""Positions: weight norm as PyTorch's, padding that is not seen, buckets of distances."""

import pytest
import torch
from torch import nn

from toolkit.nn.positions import ConvPositions, RelativeBias, StackedConvPositions, convolve


@pytest.mark.parametrize("kernel", [4, 5, 128])
@pytest.mark.parametrize("frames", [1, 3, 40, 301])
def test_weight_normed_convolution(kernel, frames):
    torch.manual_seed(0)
    ours = ConvPositions(12, kernel, 3)
    conv = nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3)
    conv = nn.utils.parametrizations.weight_norm(conv, dim=2)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.normal_()
        ours.bias.copy_(conv.bias)
        ours.scale.copy_(conv.parametrizations.weight.original0)
        ours.direction.copy_(conv.parametrizations.weight.original1)
    x = torch.randn(2, frames, 12, requires_grad=True)
    expected = nn.functional.gelu(conv(x.transpose(1, 2))[:, :, :frames]).transpose(1, 2)
    found = ours(x, None)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    grad = torch.randn_like(found)
    parameters = [x, ours.bias, ours.scale, ours.direction]
    theirs = [x, conv.bias, *conv.parametrizations.weight.parameters()]
    for mine, reference in zip(
        torch.autograd.grad(found, parameters, grad), torch.autograd.grad(expected, theirs, grad), strict=True
    ):
        torch.testing.assert_close(mine, reference, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wide_kernel_in_half_precision(dtype):
    """Only the result is rounded, which costs a quarter of the type's epsilon."""
    torch.manual_seed(0)
    arguments = [
        x.to(dtype) for x in (torch.randn(2, 40, 12), 0.1 * torch.randn(12, 4, 128), torch.randn(12))
    ]
    found, expected = convolve(*arguments, 3), convolve(*(x.double() for x in arguments), 3)
    assert found.dtype == dtype
    assert (found - expected).norm() / expected.norm() < 0.3 * torch.finfo(dtype).eps


def test_the_norm_of_a_new_weight_is_its_own():
    ours = ConvPositions(12, 4, 3)
    torch.testing.assert_close(ours.weight(), ours.direction)


def test_stacked_convolutions_see_no_padding():
    torch.manual_seed(0)
    positions = StackedConvPositions(8, 5, 2, num_layers=3)
    x = torch.randn(1, 9, 8)
    padded = torch.cat([x, torch.full((1, 4, 8), 3.0)], 1)
    valid = torch.arange(13)[None] < 9
    torch.testing.assert_close(positions(padded, valid)[:, :9], positions(x, None))


def test_new_weights_are_as_small_as_published():
    """2 / sqrt(kernel * dim) for the convolution; 0.02 for the bias, as for all of BERT's embeddings."""
    torch.manual_seed(0)
    assert ConvPositions(64, 16, 4).direction.std().item() == pytest.approx(2 / 32, rel=0.05)
    assert RelativeBias(8, 320, 800).embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_buckets_of_distances():
    bias = RelativeBias(num_heads=2, num_buckets=16, max_distance=20)
    buckets = bias.bucket(torch.arange(-30, 31))
    assert buckets[30:34].tolist() == [0, 9, 10, 11] and buckets[27:30].tolist() == [3, 2, 1]
    assert (
        buckets[0] == 7 and buckets[-1] == 15 and sorted(set(buckets.tolist())) == [*range(8), *range(9, 16)]
    )
    found = bias(5)
    for query in range(5):
        for key in range(5):
            bucket = bias.bucket(torch.tensor(key - query))
            assert torch.equal(found[:, query, key], bias.embedding.weight[bucket])

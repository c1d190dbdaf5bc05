"""Pooling against plain formulas, and its indifference to padding."""

import pytest
import torch

from toolkit.nn.pooling import AttentiveStatisticsPooling, WeightedLayerSum


def test_attentive_statistics_follow_the_paper():
    torch.manual_seed(0)
    pooling = AttentiveStatisticsPooling(4, attention_dim=3).double()
    frames = torch.randn(2, 7, 4, dtype=torch.float64)
    first, _, second = pooling.attention
    pooled = pooling(frames, torch.tensor([7, 7]))
    for b in range(2):
        scores = torch.stack(
            [second.weight[0] @ torch.tanh(first.weight @ h + first.bias) + second.bias[0] for h in frames[b]]
        )
        alpha = scores.exp() / scores.exp().sum()
        mean = sum(a * h for a, h in zip(alpha, frames[b], strict=True))
        square = sum(a * h * h for a, h in zip(alpha, frames[b], strict=True))
        expected = torch.cat([mean, (square - mean * mean).sqrt()])
        torch.testing.assert_close(pooled[b].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [0.0, 1e4, torch.nan])
def test_padding_changes_nothing(padding):
    torch.manual_seed(0)
    layer = AttentiveStatisticsPooling(4)
    short, long = torch.randn(1, 5, 4), torch.randn(1, 12, 4)
    batch = torch.full((2, 12, 4), padding)
    batch[0, :5], batch[1] = short[0], long[0]
    together = layer(batch, torch.tensor([5, 12]))
    torch.testing.assert_close(together[:1], layer(short, torch.tensor([5])))
    torch.testing.assert_close(together[1:], layer(long, torch.tensor([12])))


def test_gradient_is_finite_on_constant_frames_and_padding():
    layer = AttentiveStatisticsPooling(4)
    frames = torch.ones(2, 6, 4, requires_grad=True)
    layer(frames, torch.tensor([6, 2])).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad[1, 2:] == 0).all()


def test_layer_sum_starts_as_the_mean():
    layers = [torch.randn(2, 3, 4) for _ in range(5)]
    torch.testing.assert_close(WeightedLayerSum(5)(layers), torch.stack(layers).mean(0))


def test_layer_sum_wants_all_layers():
    with pytest.raises(ValueError, match="zip"):
        WeightedLayerSum(3)([torch.zeros(1, 1, 1)])

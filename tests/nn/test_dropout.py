"""Dropout: shares, scale, and the same mask on the way back."""

import pytest
import torch

from toolkit.nn.dropout import Dropout, keep_mask


@pytest.mark.parametrize("p", [0.003, 0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(100, 1001, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    assert y.dtype == dtype
    dropped = y == 0
    assert dropped.float().mean() == pytest.approx(p, abs=0.004)
    torch.testing.assert_close(y[~dropped], torch.full_like(y[~dropped], 1 / (1 - p)))
    y.sum().backward()
    assert torch.equal(x.grad, y)


def test_neighbours_are_independent():
    """The four elements that share a random number, as well as elements of different rows."""
    torch.manual_seed(0)
    mask = keep_mask(torch.Size((40000, 8)), 0.5).float() - 0.5
    assert (mask.t() @ mask / 40000 - torch.eye(8) / 4).abs().max() < 0.01


def test_seeds_decide():
    def draw(seed):
        torch.manual_seed(seed)
        return keep_mask(torch.Size((3, 7)), 0.5)

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


def test_nothing_happens_outside_training():
    x = torch.randn(3)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x

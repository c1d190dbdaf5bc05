"""Operations that shape gradients: nothing changes forward; backward, penalties as defined, by chance from the seed."""

import pytest
import torch

from toolkit.nn import shaping
from toolkit.nn.shaping import Balancer, Whiten, limit

Z = 0.8139535143  # of the approximate inverse error function, atanh times this


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(shaping, "happens", lambda prob: True)


def penalty_gradient(x, least, greatest, smallest, largest):
    """Of icefall's balancing loss, by autograd in double precision, scaled to 0.04 of root mean square."""
    x = x.detach().double().requires_grad_()
    dims = tuple(range(x.ndim - 1))
    square, mean = x.square().mean(dims), x.mean(dims)
    standard = mean / (square - mean**2).sqrt()
    size = square.sqrt()
    loss = (standard - standard.clamp(least, greatest)).abs() + (
        size.clamp(smallest, largest) / size
    ).log().abs()
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    rms = gradient.square().mean(dims).sqrt()
    return gradient * 0.04 / rms.clamp(min=1e-20)


@pytest.mark.parametrize("columns", [slice(None), slice(2, 5)])
def test_balancer(always, columns):
    torch.manual_seed(0)
    # Channels in bounds, too positive, too negative, too small, too large, and two at once.
    shift = torch.tensor([0.0, 5.0, -5.0, 0.0, 0.0, 30.0])
    scale = torch.tensor([1.0, 1.0, 1.0, 0.01, 20.0, 10.0])
    x = (torch.randn(3, 40, 6) * scale + shift).requires_grad_()
    balancer = Balancer(0.3, 0.7, 0.5, 4.0, columns=columns)
    y = balancer(x)
    assert torch.equal(y, x)
    outer = torch.randn(3, 40, 6)
    y.backward(outer)
    bound = Z * torch.atanh(torch.tensor(0.4)).item()
    size = (torch.pi / 2) ** 0.5
    expected = outer.double()
    expected[..., columns] += expected[..., columns].abs() * penalty_gradient(
        x[..., columns], -bound, bound, size * 0.5, size * 4.0
    )
    torch.testing.assert_close(x.grad.double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(x.grad[..., 0], outer[..., 0])
    changed = (x.grad != outer).flatten(0, 1).any(0)
    assert changed.tolist() == [columns == slice(None) and i > 0 or i in (2, 3, 4) for i in range(6)]


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_channels_that_do_not_change_stay_finite(always, value):
    x = torch.full((2, 8, 3), value, requires_grad=True)
    Whiten(1.5)(Balancer()(x)).sum().backward()
    assert x.grad.isfinite().all()


def whitening_gradient(x, groups):
    x = x.detach().double().requires_grad_()
    flat = x.flatten(0, -2).unflatten(1, (groups, -1)).transpose(0, 1)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = centred.mT @ centred
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    ratio = covariance.square().sum() / diagonal.numel() / diagonal.mean() ** 2
    (gradient,) = torch.autograd.grad(ratio, x)
    return ratio.item(), gradient


@pytest.mark.parametrize(("groups", "columns"), [(1, slice(None)), (2, slice(None)), (2, slice(2, 6))])
def test_whiten(always, groups, columns):
    torch.manual_seed(0)
    x = (torch.randn(3, 20, 8) + 4 * torch.randn(3, 20, 1) * torch.randn(8)).requires_grad_()
    outer = torch.randn(3, 20, 8)
    ratio, gradient = whitening_gradient(x[..., columns], groups)
    for bound in (ratio * 0.9, ratio * 1.1):
        x.grad = None
        y = Whiten(bound, strength=0.01, groups=groups, columns=columns)(x)
        assert torch.equal(y, x)
        y.backward(outer)
        expected = outer.double()
        if bound < ratio:
            # Half as often as icefall where it is needed, so twice as strong.
            expected[..., columns] += gradient * (0.02 * outer[..., columns].norm() / gradient.norm())
        torch.testing.assert_close(x.grad.double(), expected, atol=1e-5, rtol=1e-4)


def test_limit(always):
    x = torch.tensor([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0], requires_grad=True)
    limit(x, -1.0, 1.0).backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [-1.0, -1.0, 1.0, -1.0, 1.0, 1.0]


def test_chance_comes_from_the_seed_and_the_clock():
    def acted(seed, update):
        torch.manual_seed(seed)
        balancer = Balancer()
        balancer.update = update
        x = torch.ones(1, requires_grad=True)
        return [balancer(x) is not x for _ in range(400)]

    assert acted(1, 0) == acted(1, 0) != acted(2, 0)
    assert 150 < sum(acted(1, 0)) < 250 and 25 < sum(acted(1, 8000)) < 75


@pytest.mark.parametrize("module", [Balancer(), Whiten(3.0)])
def test_nothing_in_evaluation(always, module):
    x = torch.randn(4, 3, requires_grad=True)
    assert module.eval()(x) is x
    assert module.train()(x.detach()).grad_fn is None

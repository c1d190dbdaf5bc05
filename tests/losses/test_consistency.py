"""The consistency loss of two views against torch's distributions, and where its gradient goes."""

import torch
from torch.distributions import Categorical, kl_divergence

from toolkit.losses.consistency import consistency_loss

LENGTHS = torch.tensor([5, 2, 0])


def views(dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(3, 5, 4, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


def test_is_the_divergence_in_both_directions():
    first, second = views()
    loss = consistency_loss(first.log_softmax(-1), second.log_softmax(-1), LENGTHS)
    p, q = Categorical(logits=first), Categorical(logits=second)
    frames = kl_divergence(p, q) + kl_divergence(q, p)
    expected = [frames[b, :length].sum() for b, length in enumerate(LENGTHS)]
    torch.testing.assert_close(loss, torch.stack(expected))


def test_each_view_moves_towards_the_other_as_it_is():
    """The gradient at the logits is the difference of the distributions: that of a cross-entropy with soft labels."""
    first, second = views()
    consistency_loss(first.log_softmax(-1), second.log_softmax(-1), LENGTHS).sum().backward()
    difference = (first.softmax(-1) - second.softmax(-1)).detach()
    difference[1, 2:] = difference[2] = 0
    torch.testing.assert_close(first.grad, difference)
    torch.testing.assert_close(second.grad, -difference)


def test_padding_and_precision():
    first, second = (x.log_softmax(-1).detach() for x in views())
    changed = [first.clone(), second.clone()]
    for x in changed:
        x[1, 2:] = 100 * torch.randn(3, 4)
    torch.testing.assert_close(consistency_loss(*changed, LENGTHS), consistency_loss(first, second, LENGTHS))
    half = consistency_loss(first.bfloat16(), second.bfloat16(), LENGTHS)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), consistency_loss(first, second, LENGTHS), rtol=0.05, atol=0.05)
    assert not consistency_loss(first, first, LENGTHS).any()

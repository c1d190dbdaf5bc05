"""Label smoothing against the cross-entropy with spread targets, written out."""

import pytest
import torch

from toolkit.losses.label_smoothing import smoothed_cross_entropy

LENGTHS = torch.tensor([5, 1, 0])


def case():
    torch.manual_seed(0)
    return torch.randn(3, 5, 4, dtype=torch.float64), torch.randint(4, (3, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_the_formula(smoothing):
    logits, targets = case()
    goal = torch.nn.functional.one_hot(targets, 4) * (1 - smoothing) + smoothing / 4
    positions = -(goal * logits.log_softmax(-1)).sum(-1)
    expected = [positions[b, :length].sum() for b, length in enumerate(LENGTHS)]
    loss = smoothed_cross_entropy(logits, targets, LENGTHS, smoothing)
    torch.testing.assert_close(loss, torch.stack(expected))


def test_gradient_padding_and_precision():
    logits, targets = case()
    assert torch.autograd.gradcheck(
        lambda x: smoothed_cross_entropy(x, targets, LENGTHS, 0.1), logits.clone().requires_grad_()
    )
    loss = smoothed_cross_entropy(logits, targets, LENGTHS, 0.1)
    logits[1, 1:], targets[1, 1:] = 1e4, 0
    torch.testing.assert_close(smoothed_cross_entropy(logits, targets, LENGTHS, 0.1), loss)
    with torch.autocast("cpu", torch.bfloat16):
        half = smoothed_cross_entropy(logits.bfloat16(), targets, LENGTHS, 0.1)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), loss, rtol=0.02, atol=0.02)

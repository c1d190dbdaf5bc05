"""Self-attention: each utterance attends to itself alone, and dropout on the weights is what it says."""

import pytest
import torch

from toolkit.nn.dropout import keep_mask
from toolkit.nn.self_attention import Padding, SelfAttention

LENGTHS = [7, 4, 1]


def reference(attention, x, mask):
    """One utterance (T, D), with a mask (H, T, T) of what dropout keeps."""
    heads = attention.num_heads
    query, key, value = attention.qkv(x).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
    weights = (query @ key.transpose(1, 2) / query.shape[2] ** 0.5).softmax(2)
    weights = weights * mask / (1 - attention.dropout)
    return attention.out((weights @ value).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_against_the_definition(dropout):
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, dropout).double()
    x = torch.randn(3, 7, 12, dtype=torch.float64, requires_grad=True)
    inputs = [x, *attention.parameters()]
    torch.manual_seed(1)
    found = attention(x, Padding.of(torch.tensor(LENGTHS), 7))
    torch.manual_seed(1)
    total, expected = 0, 0
    for row, length in enumerate(LENGTHS):
        mask = keep_mask(torch.Size((3, length, length)), dropout) if dropout else 1.0
        own = reference(attention, x[row, :length], mask)
        torch.testing.assert_close(found[row, :length], own)
        total, expected = total + found[row, :length].sin().sum(), expected + own.sin().sum()
    grads = torch.autograd.grad(total, inputs)
    for mine, theirs in zip(grads, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_a_bias_is_added_to_the_scores(training):
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, 0.0).train(training)
    x = torch.randn(2, 5, 12)
    # Nobody attends to the last two frames, which is what padding does.
    bias = torch.zeros(2, 3, 5, 5)
    bias[..., 3:] = -torch.inf
    found = attention(x, Padding.of(torch.tensor([5, 5]), 5), bias)
    expected = attention(x, Padding.of(torch.tensor([3, 3]), 5))
    torch.testing.assert_close(found[:, :3], expected[:, :3])
    found = attention(x, Padding.of(torch.tensor([4, 5]), 5), torch.zeros(2, 3, 5, 5))
    torch.testing.assert_close(found, attention(x, Padding.of(torch.tensor([4, 5]), 5)))


def test_padding_that_is_none_needs_no_mask():
    assert Padding.of(torch.tensor([5, 5]), 5) == (None, [5, 5])
    assert Padding.of(torch.tensor([5, 3]), 5).valid.sum() == 8
    assert Padding.of(torch.empty(2, dtype=torch.int64, device="meta"), 5, padded=False) == (None, None)
    far = Padding.of(torch.empty(2, dtype=torch.int64, device="meta"), 5)
    assert far.lengths is None and far.valid.shape == (2, 5)


def test_half_precision():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, 0.5)
    x, padding = torch.randn(2, 9, 12, requires_grad=True), Padding.of(torch.tensor([9, 4]), 9)
    torch.manual_seed(1)
    expected = attention(x, padding)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(x, padding)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
    found.float().sum().backward()
    assert x.grad.isfinite().all()


def test_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 10 and 3"):
        SelfAttention(10, 3, 0.0)

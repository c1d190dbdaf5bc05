"""Attention weights with one backward pass for all users: equal to the plain definition."""

import pytest
import torch

from toolkit.models.zipformer import shared_attention
from toolkit.models.zipformer.context import Context, hidden_frames
from toolkit.models.zipformer.shared_attention import SharedAttention
from toolkit.nn.masks import valid_mask

B, H, T, C, P, V = 2, 3, 7, 4, 2, 5


def make(left, chunk):
    torch.manual_seed(0)
    sources = left + T
    shapes = [(B, H, T, C), (B, H, sources, C), (B, H, T, P), (H, P, sources + T - 1)]
    shapes += [(B, H, sources, V), (B, 1, sources, V), (B, H, sources, V)]
    tensors = [torch.randn(shape).requires_grad_() for shape in shapes]
    visible = valid_mask(torch.tensor([sources, sources - 3]), sources)
    hidden = hidden_frames(T, chunk, 1, visible.device) if chunk else None
    return tensors, Context(torch.empty(0), visible, visible, hidden, T, None)


def plainly(query, key, position, encoded, context, penalise):
    """Scores by loops over offsets; large ones are penalised as an addition to the loss."""
    targets, sources = query.shape[2], key.shape[2]
    scores = query @ key.mT
    index = torch.arange(sources) - torch.arange(targets)[:, None] + targets - 1
    scores = scores + (position @ encoded).gather(3, index.expand(B, H, -1, -1))
    extra = 1e-4 * (scores.abs() - 25.0).clamp(min=0).sum() if penalise else 0.0
    scores = scores + torch.where(context.visible, 0.0, -1000.0)[:, None, None]
    if context.hidden is not None:
        scores = scores + torch.where(context.hidden, -1000.0, 0.0)
    return scores.softmax(-1), extra


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("left", "chunk", "penalise"), [(0, 0, False), (0, 2, False), (4, 0, False), (0, 0, True)]
)
def test_values_and_gradients(monkeypatch, at_once, left, chunk, penalise):
    if at_once:
        monkeypatch.setattr(shared_attention, "_pieces", lambda query: [(slice(0, B), slice(0, H))])
    tensors, context = make(left, chunk)
    *scored, first, single, second = tensors
    if penalise:
        scored[0].data *= 20
    outer = [torch.randn(B, h, T, V) for h in (H, 1, H)]
    weights, extra = plainly(*scored, context, penalise)
    expected = [weights @ first, weights[:, :1] @ single, weights @ second]
    loss = sum((mine * o).sum() for mine, o in zip(expected, outer, strict=True)) + extra
    wanted = torch.autograd.grad(loss, tensors)

    shared = SharedAttention(*scored, context, penalise)
    torch.testing.assert_close(shared.weights, weights)
    found = [shared.average(values) for values in (first, single, second)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    loss = sum((mine * o).sum() for mine, o in zip(found, outer, strict=True))
    for _ in range(2):
        # A second pass through the same graph gives the same again.
        gradients = torch.autograd.grad(loss, tensors, retain_graph=True)
        for mine, theirs in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_weights_that_nobody_uses_for_learning():
    tensors, context = make(0, 0)
    *scored, values, _, _ = tensors
    shared = SharedAttention(*scored, context, False)
    assert not shared.weights.requires_grad
    with torch.no_grad():
        assert not shared.average(values).requires_grad
    torch.testing.assert_close(shared.weights.sum(-1), torch.ones(B, H, T))
    assert not shared.weights[1, :, :, -3:].any()


def test_pieces_are_for_the_cache_of_a_cpu():
    shape = 2, 3, 4, 5
    assert len(list(shared_attention._pieces(torch.empty(shape)))) == 6
    assert list(shared_attention._pieces(torch.empty(shape, device="meta"))) == [(slice(0, 2), slice(0, 3))]

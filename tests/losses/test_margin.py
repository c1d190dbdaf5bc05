"""Angular margin softmax against the formula of the paper, written out with arccos in float64."""

import math

import numpy as np
import pytest
import torch

from toolkit.losses.margin import angular_margin_softmax, cosine_similarity, margin_at


def reference(embeddings, weight, labels, margin, scale, easy_margin):
    """Deng et al. 2019, equation 3, one utterance at a time, with theta itself."""
    total = 0.0
    for x, label in zip(embeddings, labels, strict=True):
        cosines = [float(x @ w / np.linalg.norm(x) / np.linalg.norm(w)) for w in weight]
        theta = math.acos(cosines[label])
        limit = math.pi / 2 if easy_margin else math.pi - margin
        if theta < limit:
            true = math.cos(theta + margin)
        else:
            true = math.cos(theta) - (0.0 if easy_margin else margin * math.sin(margin))
        logits = scale * np.array([true if c == label else cosine for c, cosine in enumerate(cosines)])
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    return total


@pytest.mark.parametrize("easy_margin", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.2])
def test_matches_the_formula(margin, easy_margin):
    rng = np.random.default_rng(1)
    embeddings, weight = rng.standard_normal((64, 3)), rng.standard_normal((5, 3))
    labels = rng.integers(5, size=64)
    cosines = cosine_similarity(torch.tensor(embeddings), torch.tensor(weight))
    loss = angular_margin_softmax(cosines, torch.tensor(labels), margin, scale=30.0, easy_margin=easy_margin)
    expected = reference(embeddings, weight, labels, margin, 30.0, easy_margin)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_margin_zero_is_cross_entropy():
    cosines, labels = torch.rand(7, 4) * 2 - 1, torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = torch.nn.functional.cross_entropy(32 * cosines, labels, reduction="sum")
    torch.testing.assert_close(angular_margin_softmax(cosines, labels, 0.0, 32.0), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_is_finite_on_the_class_direction(sign):
    weight = torch.eye(4)
    embeddings = (sign * weight).clone().requires_grad_()
    cosines = cosine_similarity(embeddings, weight)
    angular_margin_softmax(cosines, torch.arange(4), 0.2, 30.0).backward()
    assert embeddings.grad.isfinite().all()


def test_float32_inside_autocast():
    embeddings, weight = torch.randn(8, 16), torch.randn(4, 16)
    labels = torch.arange(8) % 4
    outside = angular_margin_softmax(cosine_similarity(embeddings, weight), labels, 0.2, 32.0)
    with torch.autocast("cpu", torch.bfloat16):
        cosines = cosine_similarity(embeddings, weight)
        inside = angular_margin_softmax(cosines, labels, 0.2, 32.0)
    assert cosines.dtype == inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_margin_out_of_range():
    with pytest.raises(ValueError, match="margin must be in"):
        angular_margin_softmax(torch.zeros(1, 2), torch.tensor([0]), 2.0, 30.0)


def test_schedule():
    assert margin_at(0, final=0.3) == 0.3
    values = [margin_at(step, final=0.3, start=10, end=20) for step in range(0, 31, 5)]
    assert values == pytest.approx([0, 0, 0, 0.15, 0.3, 0.3, 0.3])

"""The linear probe against scikit-learn, and cases whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from toolkit.errors import UserError
from toolkit.ssl.probe import LinearProbe, fit, majority, measure
from toolkit.ssl.quality import NO_TOKEN


def clouds(count=600, seed=0):
    """Overlapping clouds of points of three kinds, with scales that differ a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    centres = torch.tensor([[0.0, 0, 0, 0], [1.5, 0, 1, 0], [0, 1.5, 0, 1]])
    x = centres[y] + torch.randn(count, 4, generator=generator)
    return x * torch.tensor([1.0, 100.0, 0.01, 1.0]) + 7, y


@pytest.mark.parametrize("penalty", [0.1, 1.0, 100.0])
def test_equals_scikit_learn(penalty):
    x, y = clouds()
    expected = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000)
    scaler = StandardScaler().fit(x.numpy())
    expected.fit(scaler.transform(x.numpy()), y.numpy())
    others, _ = clouds(seed=1)
    probabilities = LinearProbe(x, y, 3, penalty).scores(others).softmax(1)
    wanted = expected.predict_proba(scaler.transform(others.numpy()))
    np.testing.assert_allclose(probabilities, wanted, atol=2e-3)


def utterances(seed=0):
    """Clouds as utterances of unlike length, a tenth of the frames without a token."""
    x, y = clouds(seed=seed)
    y = y.masked_fill(torch.arange(len(y)) % 10 == 9, NO_TOKEN)
    parts = [50, 3, 200, 347]
    names = [f"utt{index}" for index in range(4)]
    rows = [row.numpy() for row in y.split(parts)]
    return dict(zip(names, x.split(parts), strict=True)), dict(zip(names, rows, strict=True))


def test_frames_without_a_token_count_for_nothing():
    features, references = utterances()
    spoilt = {name: rows.clone() for name, rows in features.items()}
    for name, rows in spoilt.items():
        rows[references[name] == NO_TOKEN] = 1e6
    probes = [fit(rows, references, 3, 10_000, 0) for rows in (features, spoilt)]
    assert torch.equal(probes[0].weight, probes[1].weight)
    found = measure(probes[0], spoilt, references)
    assert found.frames.tolist() == [int((row >= 0).sum()) for row in references.values()]
    scores = [probes[0].scores(rows).argmax(1).numpy() for rows in features.values()]
    right = [int((a == b).sum()) for a, b in zip(scores, references.values(), strict=True)]
    assert found.right.tolist() == right
    assert found.mean == sum(right) / found.frames.sum() > 0.7


def test_no_more_frames_than_wanted_are_learned_from():
    features, references = utterances()
    whole, few, again, others = (
        fit(features, references, 3, frames, seed).weight
        for frames, seed in ((600, 0), (80, 0), (80, 0), (80, 1))
    )
    assert torch.equal(few, again)
    assert not torch.allclose(few, others) and not torch.allclose(few, whole)


def test_a_constant_feature_and_a_token_that_never_occurs():
    x, y = clouds()
    probe = LinearProbe(torch.cat([x, torch.full((len(x), 1), 3.0)], 1), y, 5)
    found = probe.scores(torch.cat([x, torch.full((len(x), 1), 3.0)], 1))
    assert found.isfinite().all() and found.argmax(1).max() == 2
    assert (found.argmax(1) == y).float().mean() > 0.7


def test_majority():
    train = {"a": np.array([0, 2, 2, NO_TOKEN, NO_TOKEN, NO_TOKEN]), "b": np.array([1, 2])}
    token, found = majority(train, {"c": np.array([2, 1, NO_TOKEN]), "d": np.array([0])}, 4)
    assert (token, found.right.tolist(), found.frames.tolist()) == (2, [1, 0], [2, 1])
    assert found.mean == pytest.approx(1 / 3)


def test_nothing_to_learn_from_or_to_measure():
    features, references = utterances()
    nothing = {name: np.full_like(row, NO_TOKEN) for name, row in references.items()}
    with pytest.raises(UserError, match="train-cuts: found no frame with a token"):
        fit(features, nothing, 3, 100, 0)
    with pytest.raises(UserError, match="no frame with a token in the cuts to be measured"):
        measure(fit(features, references, 3, 100, 0), features, nothing)

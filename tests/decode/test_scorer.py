"""Sums of scorers, and picking of states."""

import pytest
import torch

from tests.decode.scorers import walk_together
from toolkit.decode.biasing import BiasingScorer
from toolkit.decode.scorer import Sum, select, where
from toolkit.text.phrases import Phrase

ONE = BiasingScorer([Phrase([1, 2], 1.0)], 4)
TWO = BiasingScorer([Phrase([2, 3], 4.0), Phrase([1], -0.5)], 4)
HYPOTHESES = [[1, 2, 3], [2, 3], [], [1, 1, 2, 2]]


def test_sum_is_the_scaled_sum_of_its_parts():
    scores, finals = walk_together(Sum([(ONE, 0.5), (TWO, 2.0), (ONE, -1.0)]), HYPOTHESES)
    (ones, ends_one), (twos, ends_two) = (walk_together(part, HYPOTHESES) for part in (ONE, TWO))
    for found, one, two in zip(scores, ones, twos, strict=True):
        assert found == pytest.approx([-0.5 * a + 2 * b for a, b in zip(one, two, strict=True)])
    assert finals == pytest.approx([-0.5 * a + 2 * b for a, b in zip(ends_one, ends_two, strict=True)])


def test_sums_of_sums():
    both = Sum([(ONE, 1.0), (TWO, 1.0)])
    nested = Sum([(both, 2.0), (ONE, 1.0)])
    flat = Sum([(ONE, 3.0), (TWO, 2.0)])
    assert walk_together(nested, HYPOTHESES) == walk_together(flat, HYPOTHESES)


def test_a_sum_of_nothing():
    with pytest.raises(ValueError, match="found no scorers"):
        Sum([])


def test_select_and_where():
    state = (torch.arange(3), torch.arange(12).view(3, 2, 2))
    picked = select(state, torch.tensor([2, 0, 0]))
    assert picked[0].tolist() == [2, 0, 0] and picked[1][:, 0, 0].tolist() == [8, 0, 0]
    assert select(state, torch.tensor([False, True, False]))[0].tolist() == [1]
    mixed = where(torch.tensor([True, False, True]), state, picked)
    assert mixed[0].tolist() == [0, 0, 2] and mixed[1][:, 1, 1].tolist() == [3, 3, 11]

"""Masks of spans, and the random numbers behind them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.ssl.masking import span_mask, uniform

WORD = 2**64


def splitmix64(state):
    """One output for each state, as Steele, Lea and Flood print it, in Python's whole numbers."""
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3))
def test_random_numbers_are_those_of_splitmix64(seeds):
    found = uniform(torch.tensor(seeds), 5).tolist()
    for seed, row in zip(seeds, found, strict=True):
        states = [(seed + 0x9E3779B97F4A7C15 * (column + 1)) % WORD for column in range(5)]
        # The highest 24 bits, as a fraction.
        assert row == [(splitmix64(state) >> 40) / 2**24 for state in states]


def test_random_numbers_are_even():
    found = uniform(torch.arange(200), 500).double()
    assert 0 <= found.min() and found.max() < 1
    assert found.mean().item() == pytest.approx(1 / 2, abs=0.003)
    assert found.var().item() == pytest.approx(1 / 12, abs=0.001)
    assert found.histc(20, 0, 1).min() > 4600
    centred = found - 0.5
    for neighbours in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert neighbours.mean().abs() < 0.002


def test_columns_do_not_depend_on_their_number():
    seeds = torch.tensor([3, -7])
    assert torch.equal(uniform(seeds, 9)[:, :4], uniform(seeds, 4))


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    padding=st.integers(0, 40),
    span=st.integers(1, 12),
    prob=st.floats(0.05, 1.0),
    min_spans=st.integers(0, 3),
)
def test_spans(lengths, padding, span, prob, min_spans):
    frames = max(lengths) + padding + 1
    seeds = torch.arange(len(lengths)) * 31 + 5
    found = span_mask(torch.tensor(lengths), frames, prob, span, seeds, min_spans)
    assert found.shape == (len(lengths), frames) and found.dtype == torch.bool
    for row, length in enumerate(lengths):
        assert not found[row, length:].any()
        runs = [len(run) for run in "".join(map(str, found[row].int().tolist())).split("0") if run]
        assert all(run >= span for run in runs)
        if length < span:
            assert not runs
            continue
        count = min(max(prob * length // span, min_spans), length - span + 1)
        # Spans may overlap: at least one of them is seen, and all of them at most.
        most = min(max(prob * length // span + 1, min_spans), length - span + 1)
        assert (sum(runs) >= span if count else True) and sum(runs) <= most * span
        # The same utterance alone and without padding.
        alone = span_mask(torch.tensor([length]), length, prob, span, seeds[row : row + 1], min_spans)
        assert torch.equal(alone[0], found[row, :length])


def test_masks_differ_between_seeds_and_repeat_with_them():
    lengths = torch.full((50,), 200)
    found = span_mask(lengths, 200, 0.65, 10, torch.arange(50))
    assert torch.equal(found, span_mask(lengths, 200, 0.65, 10, torch.arange(50)))
    assert len({tuple(row.tolist()) for row in found}) == 50


def test_the_share_of_masked_frames_is_as_expected():
    """n of N starts without replacement: a frame in the middle stays visible if none of its span starts is drawn."""
    length, span, prob = 300, 10, 0.65
    found = span_mask(torch.full((2000,), length), length, prob, span, torch.arange(2000))
    starts = length - span + 1
    visible = 0.0
    for count, weight in ((19, 0.5), (20, 0.5)):  # 0.65 * 300 / 10 = 19.5
        ways = 1.0
        for drawn in range(count):
            ways *= (starts - span - drawn) / (starts - drawn)
        visible += weight * ways
    assert found[:, 50:250].float().mean().item() == pytest.approx(1 - visible, abs=0.005)


def test_the_number_of_spans_is_right_on_average():
    """With spans of one frame the number of masked frames is the number of spans."""
    found = span_mask(torch.full((4000,), 25), 25, 0.05, 1, torch.arange(4000), min_spans=0)
    counts = found.sum(1)
    assert set(counts.tolist()) == {1, 2}
    assert counts.float().mean().item() == pytest.approx(1.25, abs=0.03)
    assert (
        span_mask(torch.full((9,), 25), 25, 0.05, 1, torch.arange(9), min_spans=4).sum(1).tolist() == [4] * 9
    )


def test_starts_are_even():
    found = span_mask(torch.full((20000,), 8), 8, 0.125, 1, torch.arange(20000), min_spans=1)
    assert found.sum(0).min() > 2300 and found.sum(0).max() < 2700

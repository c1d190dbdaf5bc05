"""Masks against plain loops, and the random numbers behind them."""

import math
import random
from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.ssl.masking import MaskConfig, draw_mask, most_hidden, split, uniform

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


def test_split_seeds_are_new_and_their_numbers_independent():
    seeds = split(torch.arange(200), 30)
    assert seeds.dtype == torch.int64 and len(seeds.unique()) == 200 * 30
    assert torch.equal(split(torch.arange(200), 3), seeds[:, :3])
    parents, children = uniform(torch.arange(200), 30) - 0.5, uniform(seeds[:, 0], 30) - 0.5
    assert (parents * children).mean().abs() < 0.004 and children.mean().abs() < 0.015


def masks(config, length, count, padding=0, first=0):
    return draw_mask(
        config, torch.full((count,), length), length + padding, torch.arange(first, first + count)
    )


def runs(row):
    """[(hidden or not, frames)] of a mask (T,)."""
    return [(value, len(list(frames))) for value, frames in groupby(row.tolist())]


CONFIGS = st.one_of(
    st.builds(
        MaskConfig,
        kind=st.sampled_from(["static", "uniform", "normal", "poisson"]),
        prob=st.floats(0.05, 1.0),
        span=st.integers(2, 12),
        other=st.floats(0, 4),
        min_spans=st.integers(0, 3),
        no_overlap=st.booleans(),
        min_space=st.integers(0, 3),
    ),
    st.builds(
        MaskConfig,
        kind=st.just("block"),
        prob=st.floats(0.05, 1.0),
        span=st.integers(1, 12),
        inverse=st.booleans(),
        adjust=st.floats(0, 0.2),
    ),
)


@given(
    config=CONFIGS, lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5), padding=st.integers(0, 40)
)
def test_an_utterance_is_masked_alike_alone_and_in_any_batch(config, lengths, padding):
    frames = max(lengths) + padding + 1
    seeds = torch.arange(len(lengths)) * 31 + 5
    found = draw_mask(config, torch.tensor(lengths), frames, seeds)
    assert found.shape == (len(lengths), frames) and found.dtype == torch.bool
    for row, length, seed in zip(found, lengths, seeds, strict=True):
        assert not row[length:].any() and row.sum() <= most_hidden(config, length)
        if length < config.span:
            assert not row.any()
        elif length:
            alone = draw_mask(config, torch.tensor([length]), length, seed[None])
            assert torch.equal(alone[0], row[:length])


@given(
    length=st.integers(1, 80),
    span=st.integers(1, 12),
    prob=st.floats(0.05, 1.0),
    min_spans=st.integers(0, 3),
    seed=st.integers(0, 2**40),
)
def test_static_spans_have_their_length_and_number(length, span, prob, min_spans, seed):
    config = MaskConfig(prob=prob, span=span, min_spans=min_spans)
    (row,) = masks(config, length, 1, first=seed)
    hidden = [size for value, size in runs(row) if value]
    assert all(size >= span for size in hidden)
    least, most = (
        min(max(prob * length // span + extra, min_spans), length - span + 1) if length >= span else 0
        for extra in (0, 1)
    )
    # Spans may overlap: one of them is seen at least, and all of them at most.
    assert (span if least else 0) <= sum(hidden) <= most * span


@given(
    length=st.integers(1, 80),
    span=st.integers(1, 12),
    prob=st.floats(0.05, 1.0),
    min_space=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
def test_spans_that_keep_apart_are_whole_and_gaps_wide_enough(length, span, prob, min_space, seed):
    config = MaskConfig(prob=prob, span=span, no_overlap=True, min_space=min_space, min_spans=1)
    (row,) = masks(config, length, 1, first=seed)
    parts = runs(row)
    hidden = [size for value, size in parts if value]
    assert set(hidden) <= {span}
    assert all(size >= min_space for value, size in parts[1:-1] if not value)
    room = (length + min_space) // (span + min_space)
    wanted = {min(room, max(1, int(prob * length / span) + extra)) for extra in (0, 1)}
    assert len(hidden) in wanted


def lengths_by_loops(config, rng, count):
    """Lengths of spans as the definition has them."""
    if config.kind == "static":
        return [config.span] * count
    if config.kind == "uniform":
        return [max(1, rng.randint(round(config.other), 2 * config.span)) for _ in range(count)]
    if config.kind == "normal":
        return [max(1, round(rng.gauss(config.span, config.other))) for _ in range(count)]
    found = []
    for _ in range(count):
        # Knuth's: how many uniform numbers can be multiplied until the product falls below exp(-mean).
        product, size = rng.random(), 0
        while product > math.exp(-config.span):
            product, size = product * rng.random(), size + 1
        found.append(max(1, size))
    return found


def spans_by_loops(config, length, rng):
    count = max(config.min_spans, int(config.prob * length / config.span + rng.random()))
    sizes = lengths_by_loops(config, rng, count)
    hidden = [False] * length
    if config.no_overlap:
        while sum(sizes) + config.min_space * (len(sizes) - 1) > length:
            sizes.pop()
        free = length - sum(sizes) - config.min_space * (len(sizes) - 1)
        # Stars and bars: all ways to spread the free frames over the gaps are equally likely.
        bars = sorted(rng.sample(range(free + len(sizes)), len(sizes)))
        begin = 0
        for index, (bar, size) in enumerate(zip(bars, sizes, strict=True)):
            start = begin + bar - index
            hidden[start : start + size] = [True] * size
            begin += size + config.min_space
        return hidden
    for start, size in zip(rng.sample(range(length - min(sizes) + 1), count), sizes, strict=True):
        for frame in range(start, min(start + size, length)):
            hidden[frame] = True
    return hidden


def blocks_by_loops(config, length, rng):
    share = 1 - config.prob if config.inverse else config.prob
    inside = [False] * length
    for _ in range(int((share + config.adjust) / config.span * length)):
        centre = rng.randrange(length)
        for frame in range(centre - config.span // 2, centre - config.span // 2 + config.span):
            inside[min(max(frame, 0), length - 1)] = True
    while sum(inside) != int(share * length):
        surplus = sum(inside) > int(share * length)
        inside[rng.choice([frame for frame in range(length) if inside[frame] == surplus])] = not surplus
    return [value != config.inverse for value in inside]


@pytest.mark.parametrize("length", [40, 200])
@pytest.mark.parametrize(
    "config",
    [
        MaskConfig(),
        MaskConfig(no_overlap=True, min_space=2),
        MaskConfig("uniform", prob=0.5, span=6, other=3),
        MaskConfig("uniform", prob=0.5, span=6, other=3, no_overlap=True),
        MaskConfig("normal", prob=0.5, span=8, other=4),
        MaskConfig("normal", prob=0.8, span=8, other=4, no_overlap=True),
        MaskConfig("poisson", prob=0.3, span=3),
        MaskConfig("poisson", prob=0.3, span=3, no_overlap=True),
        MaskConfig("block", prob=0.5, span=5, adjust=0.05),
        MaskConfig("block", prob=0.7, span=5, adjust=0.1, inverse=True),
    ],
    ids=lambda config: f"{config.kind}{'-apart' * config.no_overlap}{'-inverse' * config.inverse}",
)
def test_masks_are_those_of_plain_loops(config, length):
    """The same share of hidden frames at every place, and as many spans of the same mean length."""
    draw = blocks_by_loops if config.kind == "block" else spans_by_loops
    rng = random.Random(1)
    found, expected = (
        masks(config, length, 4000),
        torch.tensor([draw(config, length, rng) for _ in range(1500)]),
    )
    assert found.float().mean().item() == pytest.approx(expected.float().mean().item(), abs=0.01)
    # Five standard deviations of the difference.
    near = 5 * math.sqrt(0.25 / 4000 + 0.25 / 1500)
    assert (found.float().mean(0) - expected.float().mean(0)).abs().max() < near
    number, other = ((mask[:, 1:] & ~mask[:, :-1]).sum(1).float() for mask in (found, expected))
    assert number.mean().item() == pytest.approx(other.mean().item(), rel=0.03)
    assert number.std().item() == pytest.approx(other.std().item(), rel=0.12)
    assert found.sum(1).float().std().item() == pytest.approx(expected.sum(1).float().std().item(), rel=0.12)


@pytest.mark.parametrize(
    ("config", "mean", "deviation"),
    [
        (MaskConfig("uniform", span=6, other=4), 8, math.sqrt((9**2 - 1) / 12)),
        (MaskConfig("normal", span=20, other=3), 20, math.sqrt(9 + 1 / 12)),
        (MaskConfig("poisson", span=16), 16, 4),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_lengths_of_spans(config, mean, deviation):
    alone = MaskConfig(config.kind, 1e-9, config.span, config.other, min_spans=1, no_overlap=True)
    sizes = masks(alone, 100, 6000).sum(1).float()
    assert sizes.mean().item() == pytest.approx(mean, abs=5 * deviation / math.sqrt(6000))
    assert sizes.std().item() == pytest.approx(deviation, rel=0.05)


def test_blocks_hide_an_exact_share():
    for prob, inverse in ((0.5, False), (0.35, False), (0.65, True)):
        config = MaskConfig("block", prob, span=5, inverse=inverse)
        shown = (1 - prob) * 101
        expected = 101 - math.floor(shown) if inverse else math.floor(prob * 101)
        assert masks(config, 101, 50, padding=9).sum(1).tolist() == [expected] * 50


@pytest.mark.parametrize(("prob", "frames"), [(0.35, 180), (0.41, 300), (0.285, 600)])
def test_rounding_errors_hide_no_more_than_the_bound(prob, frames):
    config = MaskConfig("block", prob, span=5, inverse=True)
    assert masks(config, frames, 2).sum(1).max() <= most_hidden(config, frames) < frames


def test_several_masks_of_an_utterance_differ():
    seeds = split(torch.tensor([4, 9]), 8).flatten()
    found = draw_mask(MaskConfig("block", 0.5, 5), torch.tensor([120, 90]).repeat_interleave(8), 120, seeds)
    assert len({tuple(row.tolist()) for row in found}) == 16
    assert (found.sum(1) == torch.tensor([60] * 8 + [45] * 8)).all()


def test_masks_differ_between_seeds_and_repeat_with_them():
    found = masks(MaskConfig(), 200, 50)
    assert torch.equal(found, masks(MaskConfig(), 200, 50))
    assert len({tuple(row.tolist()) for row in found}) == 50


def test_the_number_of_spans_is_right_on_average():
    """With spans of one frame the number of masked frames is the number of spans."""
    counts = masks(MaskConfig(prob=0.05, span=1, min_spans=0), 25, 4000).sum(1)
    assert set(counts.tolist()) == {1, 2}
    assert counts.float().mean().item() == pytest.approx(1.25, abs=0.03)
    assert masks(MaskConfig(prob=0.05, span=1, min_spans=4), 25, 9).sum(1).tolist() == [4] * 9


def test_nothing_is_hidden_with_a_share_of_nothing():
    for kind in ("static", "block"):
        assert not masks(MaskConfig(kind, prob=0.0), 100, 20).any()


def test_nothing_depends_on_values_that_a_gpu_would_have_to_tell():
    on_gpu = torch.zeros(3, dtype=torch.int64, device="meta")
    for kind in ("static", "block"):
        for apart in (False, kind == "static"):
            config = MaskConfig(kind, no_overlap=apart)
            assert draw_mask(config, on_gpu, 50, on_gpu).shape == (3, 50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prob": 1.5}, r"prob must be in \[0, 1\], got 1.5"),
        ({"span": 0}, "span must be positive"),
        ({"min_spans": -1}, "min_spans and min_space not negative"),
        ({"other": -1}, "other must not be negative"),
        ({"kind": "uniform", "other": 21}, "nor above 2 \\* span if uniform, got 21"),
        ({"kind": "normal", "other": 101}, "not be above 10 \\* span if normal, got 101"),
        ({"kind": "block", "no_overlap": True}, "no_overlap is for spans"),
        ({"inverse": True}, "inverse and adjust are for kind: block, not for static"),
        ({"kind": "block", "adjust": -0.1}, r"adjust must be in \[0, 1\]"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskConfig(**settings)

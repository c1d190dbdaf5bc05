"""The recursion over lattices against all alignments counted out, in double precision."""

import importlib.util
import re

import pytest
import torch

from tests.losses.transducer_cases import SIZES, TOPOLOGIES, random_scores, sizes, sum_of_alignments
from toolkit.errors import UserError
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.recursion import lattice_loss
from toolkit.losses.transducer.simple import simple_loss

BANDS = {
    "all positions": ([0, 0, 0, 0, 0], 5),
    "wider than needed": ([0, 0, 0, 0, 0], 7),
    "rising": ([0, 0, 1, 1, 2], 3),
    "jumping": ([0, 2, 2, 2, 3], 3),
    "one position": ([0, 0, 1, 1, 2], 1),
    "beyond the tokens": ([0, 1, 2, 3, 4], 2),
    "not at the start": ([1, 1, 1, 1, 1], 4),
}


def expected(blank, target, starts, config):
    """Losses of the band, from lattices of all positions in which nothing else may be visited."""
    losses = []
    for b, (frames, tokens) in enumerate(SIZES):
        position = starts[b, :frames, None] + torch.arange(blank.shape[2])
        of_band = position <= tokens
        frame, r = of_band.nonzero(as_tuple=True)
        lattice = torch.zeros(3, frames, tokens + 1, dtype=torch.float64)
        for whole, part in zip(lattice, (blank[b], target[b], torch.ones_like(blank[b])), strict=True):
            whole[frame, position[frame, r]] = part[frame, r].double()
        losses.append(sum_of_alignments(*lattice[:2], lattice[2] > 0, config))
    return torch.tensor(losses, dtype=torch.float64)


def arguments(band):
    starts, width = BANDS[band]
    return torch.tensor(starts).expand(len(SIZES), -1).contiguous(), *sizes(), width


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equals_the_sum_over_all_alignments(topology, band):
    torch.manual_seed(0)
    starts, frames, token_lengths, width = arguments(band)
    blank, target = random_scores(width)
    for delay_penalty in (0.0, 0.3):
        config = TransducerLossConfig(topology=topology, delay_penalty=delay_penalty)
        wanted = expected(blank, target, starts, config)
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            scores = blank.to(dtype), target.to(dtype)
            loss = lattice_loss(*scores, starts, frames, token_lengths, config).loss
            assert loss.dtype == dtype
            torch.testing.assert_close(loss.double(), wanted, rtol=tolerance, atol=tolerance)
    assert wanted.isfinite().any() == (band != "not at the start")


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_probabilities_beyond_the_range_of_numbers(topology):
    torch.manual_seed(0)
    starts, frames, token_lengths, width = arguments("all positions")
    config = TransducerLossConfig(topology=topology)
    for _ in range(5):
        blank, target = (1000 * x for x in random_scores(width))
        loss, *counts = lattice_loss(blank, target, starts, frames, token_lengths, config)
        torch.testing.assert_close(loss, expected(blank, target, starts, config))
        assert all(x.isfinite().all() and x.min() >= 0 and x.max() <= 1 for x in counts)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_without_an_alignment(topology):
    blank, target = random_scores(5)
    starts, frames, token_lengths, _ = arguments("all positions")
    config = TransducerLossConfig(topology=topology)
    loss = lattice_loss(blank, target, starts, frames, token_lengths, config).loss
    assert torch.equal(loss.isinf(), (frames < token_lengths) & (topology != "regular"))


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients(topology, band):
    torch.manual_seed(0)
    starts, frames, token_lengths, width = arguments(band)
    config = TransducerLossConfig(topology=topology, delay_penalty=0.1)
    scores = [x.nan_to_num(0.0).requires_grad_() for x in random_scores(width)]

    def finite(blank, target):
        loss = lattice_loss(blank, target, starts, frames, token_lengths, config).loss
        return loss[loss.isfinite()]

    assert torch.autograd.gradcheck(finite, scores)
    result = lattice_loss(*scores, starts, frames, token_lengths, config)
    result.loss.sum().backward()
    impossible = result.loss.isinf()
    for x in (*result[1:], *(x.grad for x in scores)):
        assert x.isfinite().all()
        assert not x[impossible].any()
    assert not result.blank_occupancy.requires_grad
    # Every alignment takes one arc to the end of each frame, and one for each token.
    emitted = result.target_occupancy.sum(dim=(1, 2))
    torch.testing.assert_close(emitted[~impossible], token_lengths[~impossible].double())
    leaving = result.blank_occupancy.sum(dim=(1, 2)) + (topology != "regular") * emitted
    torch.testing.assert_close(leaving[~impossible], frames[~impossible].double())


def test_each_utterance_counts_by_its_gradient():
    blank, target = (x.nan_to_num(0.0).requires_grad_() for x in random_scores(5))
    starts, frames, token_lengths, _ = arguments("all positions")
    result = lattice_loss(blank, target, starts, frames, token_lengths, TransducerLossConfig())
    weights = torch.arange(len(SIZES), dtype=torch.float64)
    (result.loss * weights).sum().backward()
    torch.testing.assert_close(blank.grad, -weights[:, None, None] * result.blank_occupancy)
    torch.testing.assert_close(target.grad, -weights[:, None, None] * result.target_occupancy)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_long_utterances_and_threads(topology, process_settings):
    """float32 keeps four digits of the occupancies behind sums over thousands of arcs; utterances share nothing."""
    torch.manual_seed(0)
    blank, target = (torch.randn(5, 800, 60, dtype=torch.float64) * 3 - 4 for _ in range(2))
    starts = torch.zeros(5, 800, dtype=torch.int64)
    frames, token_lengths = torch.tensor([800, 1, 400, 777, 60]), torch.tensor([59, 0, 50, 3, 58])
    config = TransducerLossConfig(topology=topology)
    exact = lattice_loss(blank, target, starts, frames, token_lengths, config)
    torch.set_num_threads(3)
    threads = lattice_loss(blank, target, starts, frames, token_lengths, config)
    assert all(torch.equal(x, y) for x, y in zip(exact, threads, strict=True))
    single = lattice_loss(blank.float(), target.float(), starts, frames, token_lengths, config)
    assert exact.loss.max() > 1000
    torch.testing.assert_close(single.loss.double(), exact.loss, rtol=1e-6, atol=1e-5)
    for x, y in zip(single[1:], exact[1:], strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


def test_what_is_not_a_number_stays_so():
    """The train loop looks for it."""
    blank, target = random_scores(5)
    blank[6, 2, 1] = torch.nan
    loss = lattice_loss(blank, target, *arguments("all positions")[:3], TransducerLossConfig()).loss
    assert loss[6].isnan() and not loss[:6].isnan().any()


def test_backends_that_do_not_fit_are_refused():
    blank, target = random_scores(5)
    config = TransducerLossConfig(backend="triton")
    with pytest.raises(UserError, match="backend 'triton': found tensors on cpu, expected cuda"):
        lattice_loss(blank, target, *arguments("all positions")[:3], config)


@pytest.mark.skipif(importlib.util.find_spec("k2") is not None, reason="k2 is installed")
def test_k2_that_is_missing_is_named():
    am, tokens, lengths = torch.zeros(1, 2, 3), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1])
    with pytest.raises(UserError, match="backend 'k2': found no usable k2"):
        simple_loss(am, am, tokens, lengths, lengths, TransducerLossConfig(backend="k2"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"topology": "rnnt"}, "topology must be one of regular, modified, constrained, got 'rnnt'"),
        ({"backend": "cuda"}, "backend must be one of auto, native, triton, k2, got 'cuda'"),
        ({"prune_range": 1}, "prune_range must be at least 2, got 1"),
        ({"am_scale": -0.1}, "am_scale must not be negative, got -0.1"),
        ({"lm_scale": 0.75, "am_scale": 0.5}, "at most 1, got 1.25"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TransducerLossConfig(**wrong)

"""Ranges of the pruned transducer loss: that paths go through them, and that they are where the weight is."""

import pytest
import torch

from tests.losses.transducer_cases import SIZES, TOPOLOGIES, sizes
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.pruned import pruned_loss_of_logits
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.recursion import lattice_loss


def occupancies(batch, num_frames, num_tokens, frames, token_lengths, topology):
    """Of random scores: what the simple loss would give."""
    blank, target = (4 * torch.randn(batch, num_frames, num_tokens + 1) for _ in range(2))
    starts = torch.zeros(batch, num_frames, dtype=torch.int64)
    config = TransducerLossConfig(topology=topology)
    result = lattice_loss(blank, target, starts, frames, token_lengths, config)
    return result.target_occupancy, result.blank_occupancy


@pytest.mark.parametrize("width", [2, 3, 5, 40])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_paths_go_through_the_ranges(topology, width):
    torch.manual_seed(0)
    batch, num_frames, num_tokens = 50, 20, 12
    frames = torch.randint(12, 21, (batch,))
    token_lengths = torch.randint(0, 13, (batch,))
    counts = occupancies(batch, num_frames, num_tokens, frames, token_lengths, topology)
    ranges = pruning_ranges(*counts, frames, token_lengths, width, topology)
    kept = min(width, num_tokens + 1)
    assert ranges.shape == (batch, num_frames, kept)
    assert (ranges.diff(dim=2) == 1).all()
    starts = ranges[:, :, 0]
    assert (starts[:, 0] == 0).all() and ranges.max() <= num_tokens
    steps = starts.diff(dim=1)
    assert steps.min() >= 0 and steps.max() <= (kept - 1 if topology == "regular" else 1)
    last = ranges[torch.arange(batch), frames - 1]
    assert ((last == token_lengths[:, None]).sum(dim=1) == 1).all()
    logits = torch.zeros(batch, num_frames, kept, 5)
    tokens = torch.ones(batch, num_tokens, dtype=torch.int64)
    loss = pruned_loss_of_logits(
        logits, tokens, ranges, frames, token_lengths, TransducerLossConfig(topology=topology)
    )
    assert loss.isfinite().all()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_ranges_hold_the_weight(topology):
    """Where all alignments that matter emit near one diagonal, the ranges follow it."""
    num_frames, num_tokens, width = 30, 12, 4
    near = torch.arange(num_frames)[:, None] * (num_tokens / num_frames) - torch.arange(num_tokens + 1)
    blank = target = -(near[None] ** 2)
    lengths = torch.tensor([num_frames]), torch.tensor([num_tokens])
    config = TransducerLossConfig(topology=topology)
    starts = torch.zeros(1, num_frames, dtype=torch.int64)
    _, *counts = lattice_loss(blank, target, starts, *lengths, config)
    ranges = pruning_ranges(counts[1], counts[0], *lengths, width, topology)
    kept = counts[0].gather(2, ranges).sum() / counts[0].sum()
    middle = ranges[0].float().mean(dim=1)
    assert kept > 0.99
    assert (middle - near[:, 0])[3:-3].abs().max() <= 1


def test_as_wide_as_the_utterance():
    torch.manual_seed(0)
    frames, token_lengths = torch.tensor([6, 3]), torch.tensor([3, 1])
    counts = occupancies(2, 6, 3, frames, token_lengths, "regular")
    ranges = pruning_ranges(*counts, frames, token_lengths, 100, "regular")
    assert torch.equal(ranges, torch.arange(4).expand(2, 6, 4))


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_how_many_tokens_fit(topology, width):
    torch.manual_seed(0)
    frames, token_lengths = sizes()
    counts = occupancies(len(SIZES), 5, 4, frames, token_lengths, topology)
    ranges = pruning_ranges(*counts, frames, token_lengths, width, topology)
    logits, tokens = torch.zeros(*ranges.shape, 5), torch.ones(len(SIZES), 4, dtype=torch.int64)
    config = TransducerLossConfig(topology=topology)
    loss = pruned_loss_of_logits(logits, tokens, ranges, frames, token_lengths, config)
    steps = width - 1 if topology == "regular" else 1
    assert torch.equal(loss.isfinite(), token_lengths <= steps * frames)

"""k2's losses against ours; only where k2 is installed."""

from dataclasses import replace

import pytest
import torch

from tests.losses.transducer_cases import TOPOLOGIES
from toolkit.losses.ctc import ctc_loss
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.full import full_loss
from toolkit.losses.transducer.pruned import pruned_loss
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.simple import simple_loss


def results(config, leaves, tokens, lengths, ranges=None):
    """Everything that the losses give, gradients included; ranges are those of the losses unless given."""
    am, lm, *joiner = (x.clone().requires_grad_() for x in leaves)
    simple = simple_loss(am, lm, tokens, *lengths, config)
    counts = [simple.symbol_occupancy.clone(), simple.blank_occupancy.clone()]
    if ranges is None:
        ranges = pruning_ranges(*counts, *lengths, config.prune_range, config.topology)
    pruned = pruned_loss(*joiner, tokens, ranges, *lengths, config)
    full = full_loss(*joiner, tokens, *lengths, config)
    (simple.loss.sum() + pruned.sum() + full.sum()).backward()
    return ranges, [simple.loss, *counts, pruned, full, *(x.grad for x in (am, lm, *joiner))]


@pytest.mark.parametrize("delay_penalty", [0.0, 0.05])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_transducer_losses_agree(topology, delay_penalty):
    k2 = pytest.importorskip("k2")
    torch.manual_seed(0)
    frames, token_lengths = torch.tensor([30, 20, 28, 9]), torch.tensor([9, 3, 1, 8])
    shapes = (4, 30, 11), (4, 10, 11), (4, 30, 8), (4, 10, 8), (11, 8), (11,)
    leaves = [torch.randn(shape) for shape in shapes]
    tokens = torch.randint(1, 11, (4, 9))
    options = {"topology": topology, "delay_penalty": delay_penalty, "am_scale": 0.1, "prune_range": 4}
    config = TransducerLossConfig(**options)
    ranges, theirs = results(replace(config, backend="k2"), leaves, tokens, (frames, token_lengths))
    ours = results(config, leaves, tokens, (frames, token_lengths), ranges)[1]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-4)
    nothing = torch.zeros_like(frames)
    boundary = torch.stack([nothing, nothing, token_lengths, frames], dim=1)
    of_symbols = torch.nn.functional.pad(theirs[1][:, :, :-1].mT, (0, int(topology == "regular")))
    counts = of_symbols.contiguous(), theirs[2].mT.contiguous()
    assert torch.equal(k2.get_rnnt_prune_ranges(*counts, boundary, 4), ranges)


def test_ctc_losses_agree():
    pytest.importorskip("k2")
    from toolkit.losses import ctc_k2

    torch.manual_seed(0)
    scores = torch.randn(5, 20, 7, requires_grad=True)
    tokens = torch.randint(1, 7, (5, 8))
    lengths, token_lengths = torch.tensor([11, 20, 5, 1, 16]), torch.tensor([3, 8, 6, 0, 2])
    arguments = scores.log_softmax(-1), lengths, tokens, token_lengths
    gradients = []
    for function in (ctc_loss, ctc_k2.ctc_loss):
        loss, fits = function(*arguments)
        assert fits.tolist() == [True, True, False, True, True]
        gradients.append((loss, *torch.autograd.grad(loss.sum(), scores, retain_graph=True)))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)

"""Transducer losses against k2's: losses, occupancies, gradients, pruning ranges."""

import pytest
import torch
from torch.nn import functional

from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.full import full_loss, full_loss_of_logits
from toolkit.losses.transducer.pruned import pruned_loss, pruned_loss_of_logits
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.simple import simple_loss

NAMES = ["regular", "modified", "constrained", "short"]


@pytest.fixture(params=NAMES)
def cases(request, vectors):
    """(tensors, lengths, config) of every file of the name; lengths are frames and token_lengths."""
    found = []
    for tensors, settings in vectors(f"transducer_{request.param}"):
        assert settings["blank"] == 0
        config = TransducerLossConfig(
            topology=settings["rnnt_type"],
            prune_range=settings["s_range"],
            lm_scale=settings["lm_only_scale"],
            am_scale=settings["am_only_scale"],
        )
        boundary = tensors["boundary"]
        assert not boundary[:, :2].any()
        found.append((tensors, (boundary[:, 3], boundary[:, 2]), config))
    return found


def near(ours, theirs):
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_simple_loss_and_ranges(cases):
    for tensors, lengths, config in cases:
        am, lm = tensors["am"].clone().requires_grad_(), tensors["lm"].clone().requires_grad_()
        result = simple_loss(am, lm, tensors["symbols"], *lengths, config)
        assert near(result.loss, tensors["simple_loss"])
        # k2 has time last, no position after the last token, and on "regular" a frame after the last.
        of_symbols, frames = tensors["px_grad"], am.shape[1]
        assert near(result.symbol_occupancy[:, :, :-1].mT, of_symbols[:, :, :frames])
        assert near(result.blank_occupancy.mT, tensors["py_grad"])
        assert not of_symbols[:, :, frames:].any() and not result.symbol_occupancy[:, :, -1].any()
        result.loss.sum().backward()
        assert near(am.grad, tensors["grad_am"])
        assert near(lm.grad, tensors["grad_lm"])
        # With the reference's occupancies the ranges are the reference's. With ours, which differ by rounding, near
        # ties may go the other way: then both keep the same weight.
        expected = tensors["ranges"]
        theirs = functional.pad(of_symbols[:, :, :frames].mT, (0, 1)), tensors["py_grad"].mT
        # k2 widens the ranges of the whole batch where an utterance has too many tokens for them.
        width = max(config.prune_range, expected.shape[2])
        assert torch.equal(pruning_ranges(*theirs, *lengths, width, config.topology), expected)
        ours = result.symbol_occupancy, result.blank_occupancy
        ranges = pruning_ranges(*ours, *lengths, width, config.topology)
        assert (ranges == expected).float().mean() > 0.9
        kept, wanted = (result.blank_occupancy.gather(2, x).sum(dim=(1, 2)) for x in (ranges, expected))
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=0.0)


def test_pruned_loss(cases):
    for tensors, lengths, config in cases:
        logits = tensors["logits"].clone().requires_grad_()
        loss = pruned_loss_of_logits(logits, tensors["symbols"], tensors["ranges"], *lengths, config)
        assert near(loss, tensors["pruned_loss"])
        loss.sum().backward()
        assert near(logits.grad, tensors["grad_logits"])


def test_full_loss(cases):
    for tensors, lengths, config in cases:
        logits = torch.tanh(tensors["am"][:, :, None] + tensors["lm"][:, None])
        assert near(full_loss_of_logits(logits, tensors["symbols"], *lengths, config), tensors["full_loss"])


def test_through_the_joiner(cases):
    """The joiner of the vectors is tanh(am + lm): its output layer is the identity."""
    for tensors, lengths, config in cases:
        am, lm = tensors["am"].clone().requires_grad_(), tensors["lm"].clone().requires_grad_()
        symbols = am.shape[2]
        joiner = torch.eye(symbols), torch.zeros(symbols), tensors["symbols"]
        loss = pruned_loss(am, lm, *joiner, tensors["ranges"], *lengths, config)
        assert near(loss, tensors["pruned_loss"])
        assert near(full_loss(am, lm, *joiner, *lengths, config), tensors["full_loss"])
        loss.sum().backward()
        of_sum = tensors["grad_logits"] * (1 - tensors["logits"].square())
        assert near(am.grad, of_sum.sum(dim=2))
        positions = tensors["ranges"].flatten(1)[:, :, None].expand(-1, -1, symbols)
        assert near(lm.grad, torch.zeros_like(lm).scatter_add(1, positions, of_sum.flatten(1, 2)))

"""Pruned and full transducer losses through the joiner, against all alignments counted out."""

import pytest
import torch

from tests.losses.transducer_cases import SIZES, TOPOLOGIES, sizes, sum_of_alignments
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.full import full_loss, full_loss_of_logits
from toolkit.losses.transducer.pruned import pruned_loss, pruned_loss_of_logits
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.simple import simple_loss


def case(topology):
    """The joiner's inputs and parameters, tokens, ranges, lengths, configuration; J = 3, V = 5, R = 2."""
    torch.manual_seed(0)
    shapes = (len(SIZES), 5, 3), (len(SIZES), 5, 3), (5, 3), (5,)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    tokens = torch.randint(1, 5, (len(SIZES), 4))
    config = TransducerLossConfig(topology=topology, delay_penalty=0.1)
    am, lm = (torch.randn(len(SIZES), 5, 5, dtype=torch.float64) for _ in range(2))
    simple = simple_loss(am, lm, tokens, *sizes(), config)
    counts = simple.symbol_occupancy, simple.blank_occupancy
    return inputs, tokens, pruning_ranges(*counts, *sizes(), 2, topology), sizes(), config


def all_logits(encoder, predictor, weight, bias):
    """(B, T, U + 1, V)."""
    return torch.tanh(encoder[:, :, None] + predictor[:, None]) @ weight.T + bias


def counted_out(inputs, tokens, ranges, config):
    log_probs = all_logits(*inputs).log_softmax(-1).detach()
    losses = []
    for b, (frames, length) in enumerate(SIZES):
        of_utterance = log_probs[b, :frames, : length + 1]
        symbols = torch.cat([tokens[b, :length], torch.zeros(1, dtype=torch.int64)])
        target = of_utterance.gather(2, symbols.expand(frames, -1)[..., None])[..., 0]
        inside = (ranges[b, :frames, :, None] == torch.arange(length + 1)).any(dim=1)
        losses.append(sum_of_alignments(of_utterance[..., 0], target, inside, config))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equal_the_sum_over_alignments(topology):
    inputs, tokens, ranges, lengths, config = case(topology)
    wanted = counted_out(inputs, tokens, ranges, config)
    assert wanted.isfinite().sum() >= 6
    torch.testing.assert_close(pruned_loss(*inputs, tokens, ranges, *lengths, config), wanted)
    logits = all_logits(*inputs)
    of_ranges = logits.gather(2, ranges[..., None].expand(-1, -1, -1, 5))
    torch.testing.assert_close(pruned_loss_of_logits(of_ranges, tokens, ranges, *lengths, config), wanted)
    whole = counted_out(inputs, tokens, torch.arange(5).expand(len(SIZES), 5, -1), config)
    torch.testing.assert_close(full_loss(*inputs, tokens, *lengths, config), whole)
    torch.testing.assert_close(full_loss_of_logits(logits, tokens, *lengths, config), whole)
    assert (whole <= wanted + 1e-9).all() and (whole < wanted - 1e-3).any()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients(topology):
    inputs, tokens, ranges, lengths, config = case(topology)
    weights = torch.arange(1.0, len(SIZES) + 1)

    def weighted(losses):
        return (torch.where(losses.isfinite(), losses, 0.0) * weights).sum()

    logits = all_logits(*inputs)
    of_ranges = logits.gather(2, ranges[..., None].expand(-1, -1, -1, 5))
    pairs = [
        (
            pruned_loss(*inputs, tokens, ranges, *lengths, config),
            pruned_loss_of_logits(of_ranges, tokens, ranges, *lengths, config),
        ),
        (full_loss(*inputs, tokens, *lengths, config), full_loss_of_logits(logits, tokens, *lengths, config)),
    ]
    for fused, plain in pairs:
        ours = torch.autograd.grad(weighted(fused), inputs)
        theirs = torch.autograd.grad(weighted(plain), inputs, retain_graph=True)
        torch.testing.assert_close(ours, theirs)

    def of_logits(x):
        loss = pruned_loss_of_logits(x, tokens[-2:], ranges[-2:], *(n[-2:] for n in lengths), config)
        return loss

    small = torch.randn(2, 5, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of_logits, small)

"""The simple transducer loss against log-softmaxes over explicit sums of logits and all alignments counted out."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.losses.transducer_cases import SIZES, TOPOLOGIES, sizes, sum_of_alignments
from toolkit.losses.transducer import simple
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.recursion import lattice_loss
from toolkit.losses.transducer.simple import simple_loss

SMOOTHED = TransducerLossConfig(lm_scale=0.25, am_scale=0.1, delay_penalty=0.1)


def case(dtype=torch.float64):
    """am (B, 5, 6), lm (B, 5, 6), tokens and sizes of `SIZES`."""
    torch.manual_seed(0)
    am, lm = (3 * torch.randn(len(SIZES), 5, 6, dtype=torch.float64) for _ in range(2))
    return am.to(dtype), lm.to(dtype), torch.randint(1, 6, (len(SIZES), 4)), *sizes()


def scores(am, lm, tokens, config):
    """Interpolated log-probabilities of blank and next token, (B, T, U + 1), with all logits (B, T, U + 1, V)."""
    of_both = (am[:, :, None] + lm[:, None]).log_softmax(-1)
    of_lm = lm.log_softmax(-1)[:, None].expand_as(of_both)
    unigram = lm.softmax(-1).mean((0, 1)).log()
    of_am = (am + unigram).log_softmax(-1)[:, :, None].expand_as(of_both)
    rest = 1 - config.lm_scale - config.am_scale
    log_probs = rest * of_both + config.lm_scale * of_lm + config.am_scale * of_am
    symbols = functional.pad(tokens, (0, 1))[:, None, :, None].expand(-1, am.shape[1], -1, -1)
    return log_probs[..., 0], log_probs.gather(3, symbols)[..., 0]


@pytest.mark.parametrize("scales", [(0.0, 0.0), (0.25, 0.0), (0.1, 0.2)])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equals_the_sum_over_all_alignments(topology, scales):
    am, lm, tokens, frames, token_lengths = case()
    config = TransducerLossConfig(
        topology=topology, lm_scale=scales[0], am_scale=scales[1], delay_penalty=0.2
    )
    result = simple_loss(am, lm, tokens, frames, token_lengths, config)
    blank, target = scores(am, lm, tokens, config)
    wanted = [
        sum_of_alignments(blank[b, :t, : u + 1], target[b, :t, : u + 1], torch.ones(t, u + 1), config)
        for b, (t, u) in enumerate(SIZES)
    ]
    torch.testing.assert_close(result.loss, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradients(topology):
    """Those of a function with gradients of its own, against those of the plain scores."""
    am, lm, tokens, *lengths = case()
    config = replace(SMOOTHED, topology=topology)
    am.requires_grad_(), lm.requires_grad_()

    def finite(am, lm):
        loss = simple_loss(am, lm, tokens, *lengths, config).loss
        return loss[loss.isfinite()]

    assert torch.autograd.gradcheck(finite, (am, lm))
    weights = torch.arange(1.0, len(SIZES) + 1)
    result = simple_loss(am, lm, tokens, *lengths, config)
    ours = torch.autograd.grad((weights * result.loss).sum(), (am, lm))
    starts = torch.zeros(len(SIZES), 5, dtype=torch.int64)
    plain = lattice_loss(*scores(am, lm, tokens, config), starts, *lengths, config)
    theirs = torch.autograd.grad((weights * plain.loss).sum(), (am, lm))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(result.blank_occupancy, plain.blank_occupancy)
    torch.testing.assert_close(result.symbol_occupancy, plain.target_occupancy)


def test_padding_does_not_matter():
    am, lm, tokens, frames, token_lengths = case()
    config = TransducerLossConfig()
    whole = simple_loss(am, lm, tokens, frames, token_lengths, config)
    changed = [x.clone() for x in (am, lm, tokens)]
    for b, (t, u) in enumerate(SIZES):
        changed[0][b, t:], changed[1][b, u + 1 :], changed[2][b, u:] = 1e4, -1e4, 5
    other = simple_loss(*changed, frames, token_lengths, config)
    for x, y in zip(whole, other, strict=True):
        torch.testing.assert_close(x, y)
    for b, (t, u) in enumerate(SIZES):
        alone = am[b : b + 1, :t], lm[b : b + 1, : u + 1], tokens[b : b + 1, :u]
        loss = simple_loss(*alone, frames[b : b + 1], token_lengths[b : b + 1], config).loss
        torch.testing.assert_close(loss, whole.loss[b : b + 1])


def test_all_utterances_at_a_time(monkeypatch):
    """As on a GPU."""
    am, lm, *rest = case()
    results = []
    for _ in range(2):
        logits = am.clone().requires_grad_(), lm.clone().requires_grad_()
        result = simple_loss(*logits, *rest, SMOOTHED)
        result.loss.sum().backward()
        results.append([*result, *(x.grad for x in logits)])
        monkeypatch.setattr(
            simple, "_tile_by_tile", lambda tile, *_: tile(slice(None), slice(None), slice(None))
        )
    torch.testing.assert_close(*results)


def test_single_and_half_precision():
    """Logits in bfloat16, as under autocast, are computed with in float32."""
    am, lm, *rest = case(torch.bfloat16)
    half = am.clone().requires_grad_(), lm.clone().requires_grad_()
    single = am.float().requires_grad_(), lm.float().requires_grad_()
    double = am.double().requires_grad_(), lm.double().requires_grad_()
    losses = []
    with torch.autocast("cpu", torch.bfloat16):
        for logits in (half, single, double):
            losses.append(simple_loss(*logits, *rest, SMOOTHED).loss)
            losses[-1].sum().backward()
            assert all(x.grad.dtype == x.dtype for x in logits)
    assert torch.equal(losses[0], losses[1])
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[1].double(), losses[2], rtol=1e-5, atol=1e-5)
    for x, y, z in zip(half, single, double, strict=True):
        torch.testing.assert_close(x.grad.float(), y.grad, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(y.grad.double(), z.grad, rtol=1e-5, atol=1e-5)


def test_frames_and_tokens_that_never_agree():
    """All products of exponentials underflow: the loss is large and wrong, but a number, as are its gradients."""
    am, lm = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
    am[:, :, 1], lm[:, :, 2] = 300.0, 300.0
    am.requires_grad_(), lm.requires_grad_()
    lengths = torch.tensor([3]), torch.tensor([2])
    loss = simple_loss(am, lm, torch.tensor([[3, 3]]), *lengths, TransducerLossConfig()).loss
    loss.sum().backward()
    assert loss.isfinite().all() and am.grad.isfinite().all() and lm.grad.isfinite().all()

"""Powerset classes and the permutation-free loss against plain loops."""

import itertools

import pytest
import torch

from toolkit.losses.powerset import Powerset


def test_class_order():
    sets = [tuple(row.nonzero().flatten().tolist()) for row in Powerset(3, 2).members]
    assert sets == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    assert Powerset(4, 2).num_classes == 11
    assert Powerset(2, 1).num_classes == 3


@pytest.mark.parametrize(("speakers", "simultaneous"), [(1, 1), (2, 2), (3, 2), (4, 2), (4, 4)])
def test_every_class_survives_the_round_trip(speakers, simultaneous):
    powerset = Powerset(speakers, simultaneous)
    classes = torch.arange(powerset.num_classes)
    assert torch.equal(powerset.to_classes(powerset.to_activity(classes)), classes)


def test_too_many_speakers_keeps_the_first():
    assert Powerset(3, 2).to_classes(torch.tensor([[1, 1, 1]])).tolist() == [4]
    assert Powerset(4, 1).to_classes(torch.tensor([[0, 1, 1, 1]])).tolist() == [2]


def test_marginals():
    powerset = Powerset(3, 2)
    probs = torch.rand(2, 5, 7).softmax(-1)
    marginals = powerset.marginals(probs.log())
    torch.testing.assert_close(marginals[..., 0], probs[..., 1] + probs[..., 4] + probs[..., 5])


@pytest.mark.parametrize(("speakers", "simultaneous"), [(2, 2), (3, 2), (4, 2)])
def test_loss_is_the_least_over_all_orders(speakers, simultaneous):
    generator = torch.Generator().manual_seed(speakers)
    powerset = Powerset(speakers, simultaneous)
    log_probs = torch.randn(5, 9, powerset.num_classes, generator=generator).log_softmax(-1)
    activity = torch.zeros(5, 9, speakers)
    classes = torch.randint(powerset.num_classes, (5, 9), generator=generator)
    activity = powerset.to_activity(classes)
    mask = torch.rand(5, 9, generator=generator) > 0.3
    loss, order = powerset.loss(log_probs, activity, mask)

    expected = 0.0
    for b in range(5):
        values = {}
        for candidate in itertools.permutations(range(speakers)):
            targets = powerset.to_classes(activity[b][:, list(candidate)])
            values[candidate] = -sum(log_probs[b, t, targets[t]].item() for t in range(9) if mask[b, t])
        best = min(values, key=values.get)
        assert tuple(order[b].tolist()) == best
        expected += values[best]
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_ignores_the_order_of_the_speakers_and_the_padding():
    generator = torch.Generator().manual_seed(0)
    powerset = Powerset(3, 2)
    log_probs = torch.randn(2, 6, 7, generator=generator).log_softmax(-1)
    activity = powerset.to_activity(torch.randint(7, (2, 6), generator=generator))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    loss = powerset.loss(log_probs, activity, mask).loss_sum
    spoilt = log_probs.masked_fill(~mask[..., None], torch.nan)
    torch.testing.assert_close(powerset.loss(spoilt, activity[..., [2, 0, 1]], mask).loss_sum, loss)


def test_perfect_prediction_has_no_loss_and_finds_the_order():
    powerset = Powerset(3, 2)
    predicted = powerset.to_activity(torch.tensor([[0, 1, 2, 3, 4, 5, 6]]))
    log_probs = torch.nn.functional.one_hot(powerset.to_classes(predicted), 7).float().clamp_min(1e-9).log()
    reference = predicted[..., [1, 2, 0]]
    loss, order = powerset.loss(log_probs, reference, torch.ones(1, 7, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert torch.equal(reference[0][:, order[0]], predicted[0])


def test_autocast_costs_no_precision():
    generator = torch.Generator().manual_seed(0)
    powerset = Powerset(3, 2)
    log_probs = torch.randn(2, 500, 7, generator=generator).log_softmax(-1).requires_grad_()
    activity = powerset.to_activity(torch.randint(7, (2, 500), generator=generator))
    mask = torch.ones(2, 500, dtype=torch.bool)
    expected, order = powerset.loss(log_probs, activity, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found, same = powerset.loss(log_probs, activity, mask)
    assert found.dtype == torch.float32 and found == expected and torch.equal(same, order)
    (grad,) = torch.autograd.grad(found, log_probs)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, log_probs)[0], rtol=0, atol=0)


def test_tables_follow_a_model_and_stay_out_of_its_weights():
    powerset = Powerset(3, 2)
    assert not powerset.state_dict()
    assert {table.device.type for table in powerset.to("meta").buffers()} == {"meta"}


def test_impossible_sizes():
    with pytest.raises(ValueError, match="num_speakers=2, max_simultaneous=3"):
        Powerset(2, 3)

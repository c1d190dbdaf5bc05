"""Masked prediction against plain loops in double precision."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from toolkit.models.output import EncoderOutput
from toolkit.ssl.hubert import HubertConfig, HubertObjective
from toolkit.ssl.masking import MaskConfig


def make(**settings):
    return HubertObjective(HubertConfig(**settings), SimpleNamespace(dim=6))


def loss_of(objective, output, targets, mask):
    return objective.loss(output, None, targets[..., None], mask, torch.arange(len(mask)))


def random_case(seed=0):
    torch.manual_seed(seed)
    frames, lengths = torch.randn(3, 9, 6), torch.tensor([9, 5, 7])
    targets = torch.randint(-1, 4, (3, 9))
    mask = torch.rand(3, 9) < 0.5
    return EncoderOutput(frames, lengths, [frames]), targets, mask


def loops(objective, output, targets, mask):
    """Cross-entropy, correct guesses and frames, separately for masked and for other frames."""
    weight, bias = objective.head.weight.double(), objective.head.bias.double()
    sums = {True: [0.0, 0, 0], False: [0.0, 0, 0]}
    for row in range(len(targets)):
        for frame in range(int(output.lengths[row])):
            target = int(targets[row, frame])
            if target < 0:
                continue
            scores = (
                (weight @ output.frames[row, frame].double() + bias) / objective.config.temperature
            ).tolist()
            highest = max(scores)
            total = highest + math.log(sum(math.exp(score - highest) for score in scores))
            part = sums[bool(mask[row, frame])]
            part[0] += total - scores[target]
            part[1] += scores.index(highest) == target
            part[2] += 1
    return sums


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.3])
def test_loss(unmasked_weight):
    output, targets, mask = random_case()
    objective = make(num_classes=4, temperature=0.3, unmasked_weight=unmasked_weight)
    loss, stats, weight = loss_of(objective, output, targets, mask)
    sums = loops(objective, output, targets, mask)
    assert loss.item() == pytest.approx(sums[True][0] + unmasked_weight * sums[False][0], rel=1e-5)
    assert stats["accuracy"].item() == sums[True][1] > 0
    assert weight.item() == sums[True][2] > 5


def test_padding_and_unmasked_frames_get_no_gradient():
    output, targets, mask = random_case()
    frames = output.frames.requires_grad_()
    objective = make(num_classes=4)
    loss_of(objective, output, targets, mask)[0].backward()
    valid = torch.arange(9) < output.lengths[:, None]
    assert torch.equal(frames.grad.abs().sum(-1) > 0, mask & valid & (targets >= 0))


def test_what_padding_holds_does_not_matter():
    output, targets, mask = random_case()
    objective = make(num_classes=4, unmasked_weight=1.0)
    expected = loss_of(objective, output, targets, mask)[0]
    padding = torch.arange(9) >= output.lengths[:, None]
    frames = output.frames.masked_fill(padding[..., None], math.nan).requires_grad_()
    loss = loss_of(objective, output._replace(frames=frames), targets, mask)[0]
    loss.backward()
    assert loss == expected
    assert objective.head.weight.grad.isfinite().all() and frames.grad[~padding].isfinite().all()


def test_nothing_depends_on_values_that_a_gpu_would_have_to_tell():
    output, targets, mask = random_case()
    objective = make(num_classes=4, unmasked_weight=1.0).to("meta")
    output = EncoderOutput(output.frames.to("meta"), output.lengths.to("meta"), [])
    loss, stats, weight = loss_of(objective, output, targets.to("meta"), mask.to("meta"))
    assert loss.shape == stats["accuracy"].shape == weight.shape == ()
    assert objective.mask(output.lengths, 9, torch.arange(3, device="meta")).shape == (3, 9)


def test_nothing_masked_is_no_loss():
    output, targets, mask = random_case()
    objective = make(num_classes=4)
    loss, stats, weight = loss_of(objective, output, targets, torch.zeros_like(mask))
    loss.backward()
    assert (loss, weight, stats["accuracy"]) == (0, 0, 0)
    assert objective.head.weight.grad.abs().sum() == 0


def test_masks_have_two_spans_at_least_and_the_configured_length():
    objective = make(mask=MaskConfig(prob=0.01, span=4))
    lengths = torch.tensor([random.Random(0).randint(20, 40) for _ in range(30)])
    found = objective.mask(lengths, 40, torch.arange(30))
    assert found.sum(1).min() >= 5 and found.sum(1).max() == 8


def test_impossible_settings():
    for settings in (
        {"num_classes": 1},
        {"temperature": 0},
    ):
        with pytest.raises(ValueError, match="are needed"):
            HubertConfig(**settings)

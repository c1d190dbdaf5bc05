"""Masked prediction against plain loops in double precision."""

import math
import random
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from toolkit.config import build
from toolkit.errors import UserError
from toolkit.models.output import EncoderOutput
from toolkit.ssl.hubert import CosineHead, HubertConfig, HubertObjective
from toolkit.ssl.masking import MaskConfig


def make(**settings):
    return HubertObjective(HubertConfig(**settings), SimpleNamespace(dim=6))


def loss_of(objective, output, labels, mask):
    return objective.loss(output, torch.tensor([8, 4, 6]), labels, mask, torch.arange(len(mask)))


def random_case(streams=1):
    """Three utterances of 9, 5 and 7 frames; some frames lack some labels."""
    torch.manual_seed(0)
    frames, lengths = torch.randn(3, 9, 6), torch.tensor([9, 5, 7])
    labels = torch.randint(-1, 4, (3, 9, streams))
    mask = torch.rand(3, 9) < 0.5
    return EncoderOutput(frames, lengths, [frames]), labels, mask


def linear_scores(head, frame):
    return (head.weight.double() @ frame + head.bias.double()).tolist()


def cosine_scores(head, frame):
    projected = (head.projection.weight.double() @ frame + head.projection.bias.double()).tolist()
    norm = math.hypot(*projected)
    return [
        sum(a * b for a, b in zip(projected, code, strict=True)) / norm / math.hypot(*code)
        for code in head.codes.tolist()
    ]


def loops(objective, output, labels, mask):
    """Masked or not -> loss over all streams; stream -> right guesses among masked frames; masked frames."""
    scores_of = linear_scores if objective.config.head == "linear" else cosine_scores
    losses, correct, count = {True: 0.0, False: 0.0}, [0] * len(objective.config.streams), 0
    for row, length in enumerate(output.lengths.tolist()):
        for frame in range(length):
            found, hidden = labels[row, frame].tolist(), bool(mask[row, frame])
            count += hidden and max(found) >= 0
            scores = scores_of(objective.head, output.frames[row, frame].double())
            for stream, (classes, label) in enumerate(zip(objective.config.streams, found, strict=True)):
                own, scores = scores[:classes], scores[classes:]
                if label >= 0:
                    exponents = [score / objective.config.temperature for score in own]
                    losses[hidden] += math.log(sum(map(math.exp, exponents))) - exponents[label]
                    correct[stream] += hidden and own.index(max(own)) == label
    return losses, correct, count


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.8, 0.3), (0.0, 1.0)])
@pytest.mark.parametrize("num_classes", [4, [4, 7, 5]], ids=["one", "three"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_loss(head, num_classes, weights):
    output, labels, mask = random_case(3 if isinstance(num_classes, list) else 1)
    settings = {
        "temperature": 0.3,
        "masked_weight": weights[0],
        "unmasked_weight": weights[1],
        "final_dim": 3,
    }
    objective = make(head=head, num_classes=num_classes, **settings)
    loss, stats, weight = loss_of(objective, output, labels, mask)
    losses, correct, count = loops(objective, output, labels, mask)
    assert loss.item() == pytest.approx(weights[0] * losses[True] + weights[1] * losses[False], rel=1e-5)
    names = ["accuracy", "accuracy_2", "accuracy_3"][: len(correct)]
    assert stats.keys() == set(names)
    if weights[0]:
        assert [stats[name].item() for name in names] == correct and sum(correct) > 0
    assert weight.item() == count > 5


def test_cosines_are_in_single_precision_under_autocast():
    torch.manual_seed(0)
    head, x = CosineHead(6, 32, 20), torch.randn(3, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found, projected = head(x), head.projection(x)
    assert projected.dtype == torch.bfloat16
    expected = functional.cosine_similarity(projected.double()[:, :, None], head.codes.double(), dim=-1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_padding_and_unmasked_frames_get_no_gradient():
    output, labels, mask = random_case()
    frames = output.frames.requires_grad_()
    objective = make(num_classes=4)
    loss_of(objective, output, labels, mask)[0].backward()
    valid = torch.arange(9) < output.lengths[:, None]
    assert torch.equal(frames.grad.abs().sum(-1) > 0, mask & valid & (labels[..., 0] >= 0))


def test_scores_of_unmasked_frames_are_not_computed_without_need():
    output, labels, mask = random_case()
    objective = make(num_classes=4)
    seen = []
    objective.head.register_forward_hook(lambda head, inputs, scores: seen.append(scores.shape[:2].numel()))
    loss_of(objective, output, labels, mask)
    wanted = mask & (torch.arange(9) < output.lengths[:, None]) & (labels[..., 0] >= 0)
    assert seen == [3 * int(wanted.sum(1).max())] and seen[0] < 27


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_what_padding_holds_does_not_matter(head):
    output, labels, mask = random_case()
    features = torch.randn(3, 8, 5)
    objective = make(num_classes=4, unmasked_weight=1.0, head=head)
    expected = loss_of(objective, output._replace(features=features), labels, mask)[0]
    padding = torch.arange(9) >= output.lengths[:, None]
    frames = output.frames.masked_fill(padding[..., None], math.nan).requires_grad_()
    features = features.masked_fill(
        torch.arange(8)[:, None] >= torch.tensor([8, 4, 6])[:, None, None], math.nan
    )
    loss = loss_of(objective, output._replace(frames=frames, features=features), labels, mask)[0]
    loss.backward()
    assert loss == expected
    assert all(weight.grad.isfinite().all() for weight in objective.parameters())
    assert frames.grad[~padding].isfinite().all()


def test_large_features_are_penalised_in_each_utterance_by_its_masked_frames():
    output, labels, mask = random_case()
    features = torch.randn(3, 8, 5, requires_grad=True)
    objective = make(num_classes=4, feature_penalty=2.5)
    plain, _, weight = loss_of(objective, output, labels, mask)
    loss, stats, same_weight = loss_of(objective, output._replace(features=features), labels, mask)
    expected = 0.0
    for row, (frames, length) in enumerate(zip((8, 4, 6), output.lengths.tolist(), strict=True)):
        count = sum(bool(mask[row, t]) and int(labels[row, t, 0]) >= 0 for t in range(length))
        expected += (
            2.5 * count * sum(v * v for f in features[row, :frames].tolist() for v in f) / (frames * 5)
        )
    assert (loss - plain).item() == pytest.approx(expected, rel=1e-5)
    assert stats["feature_penalty"].item() == pytest.approx(expected, rel=1e-5) and weight == same_weight
    assert not stats["feature_penalty"].requires_grad
    off = make(num_classes=4, feature_penalty=0.0)
    assert "feature_penalty" not in loss_of(off, output._replace(features=features), labels, mask)[1]


@pytest.mark.parametrize("settings", [{}, {"unmasked_weight": 1.0}, {"head": "cosine"}], ids=str)
def test_nothing_depends_on_values_that_a_gpu_would_have_to_tell(settings, monkeypatch):
    # Which PyTorch lacks for this device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    objective = make(num_classes=4, **settings).to("meta")
    frames, lengths = torch.zeros(3, 9, 6, device="meta"), torch.zeros(3, dtype=torch.int64, device="meta")
    output = EncoderOutput(frames, lengths, [], features=frames)
    mask = objective.mask(lengths, 9, lengths)
    loss, stats, weight = objective.loss(
        output, lengths, lengths[:, None, None].expand(3, 9, 1), mask, lengths
    )
    assert mask.shape == (3, 9) and loss.shape == stats["accuracy"].shape == weight.shape == ()


def test_nothing_masked_is_no_loss():
    output, labels, mask = random_case()
    objective = make(num_classes=4)
    loss, stats, weight = loss_of(objective, output, labels, torch.zeros_like(mask))
    loss.backward()
    assert (loss, weight, stats["accuracy"]) == (0, 0, 0)
    assert objective.head.weight.grad.abs().sum() == 0


def test_masks_have_two_spans_at_least_and_the_configured_length():
    objective = make(mask=MaskConfig(prob=0.01, span=4))
    lengths = torch.tensor([random.Random(0).randint(20, 40) for _ in range(30)])
    found = objective.mask(lengths, 40, torch.arange(30))
    assert found.sum(1).min() >= 5 and found.sum(1).max() == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes >= 2"),
        ({"num_classes": []}, "num_classes >= 2"),
        ({"num_classes": [5, 1]}, "num_classes >= 2"),
        ({"temperature": 0}, "temperature > 0"),
        ({"final_dim": 0}, "final_dim >= 1"),
        ({"unmasked_weight": -1}, "must not be negative"),
        ({"masked_weight": 0.0}, "nor the first two both 0"),
        ({"mask": MaskConfig(prob=0.0)}, "mask.prob must be positive"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        HubertConfig(**settings)


def test_classes_are_a_number_or_a_list():
    assert build(HubertConfig, {"num_classes": 7}, "test").streams == [7]
    assert build(HubertConfig, {"num_classes": [7, 9]}, "test").streams == [7, 9]
    with pytest.raises(UserError, match="num_classes: found 'many'"):
        build(HubertConfig, {"num_classes": "many"}, "test")

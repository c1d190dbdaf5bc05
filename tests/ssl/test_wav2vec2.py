"""wav2vec 2.0: quantiser, negatives and losses against plain loops in double precision; and that it learns."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from tests.tasks.small import ENCODER, learn
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.ssl.quantizer import GumbelQuantizer, perplexity, usage
from toolkit.ssl.wav2vec2 import (
    Wav2Vec2Config,
    Wav2Vec2Objective,
    contrastive_loss,
    diversity_loss,
    draw_negatives,
)
from toolkit.tasks.ssl import SslConfig, SslTask


def test_negatives_are_other_masked_frames_all_as_likely():
    counts = torch.tensor([5, 1, 3])
    drawn = draw_negatives(counts, 5, 4000, torch.tensor([3, 4, 5]))
    assert drawn.shape == (3, 5, 4000)
    for row, count in ((0, 5), (2, 3)):
        for frame in range(count):
            times = torch.bincount(drawn[row, frame], minlength=5)
            assert times[frame] == times[count:].sum() == 0
            others = [times[other] for other in range(count) if other != frame]
            assert all(abs(n - 4000 / (count - 1)) < 150 for n in others)


def test_negatives_depend_on_the_utterance_alone():
    seeds, counts = torch.tensor([7, 8, 9]), torch.tensor([6, 9, 2])
    together = draw_negatives(counts, 12, 10, seeds)
    for row, count in enumerate(counts.tolist()):
        alone = draw_negatives(counts[row : row + 1], count, 10, seeds[row : row + 1])
        assert torch.equal(together[row, :count], alone[0])
    assert not torch.equal(together[0, :2], together[1, :2])


def cosine(a, b):
    dot, norms = sum(x * y for x, y in zip(a, b, strict=True)), (sum(x * x for x in v) for v in (a, b))
    return dot / math.prod(math.sqrt(norm) for norm in norms)


def test_contrastive_loss():
    torch.manual_seed(0)
    predictions, vectors = torch.randn(3, 6, 4), torch.randn(3, 3, 4)
    codes = torch.randint(0, 3, (3, 6))
    targets = torch.stack([vectors[row, codes[row]] for row in range(3)])
    counts = torch.tensor([6, 4, 1])
    counted = torch.arange(6) < counts[:, None]
    negatives = draw_negatives(counts, 6, 5, torch.arange(3))
    # Two groups tell the codes apart only together.
    groups = torch.stack([codes // 2, codes % 2], dim=-1)
    loss, correct = contrastive_loss(predictions, targets, groups, negatives, counted, 0.2)

    total, right, left_out = 0.0, 0, 0
    for row, count in enumerate(counts.tolist()):
        for frame in range(count if count > 1 else 0):
            prediction = predictions[row, frame].tolist()
            positive = cosine(prediction, targets[row, frame].tolist()) / 0.2
            others = [n for n in negatives[row, frame].tolist() if codes[row, n] != codes[row, frame]]
            scores = [cosine(prediction, targets[row, n].tolist()) / 0.2 for n in others]
            total += math.log(sum(math.exp(score - positive) for score in [positive, *scores]))
            right += bool(scores) and max(scores) < positive
            left_out += 5 - len(others)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert correct.item() == right > 0
    assert left_out > 0


def test_diversity_loss_and_perplexity():
    torch.manual_seed(0)
    probs = torch.randn(7, 2, 5).mul(3).softmax(-1)
    counted = torch.tensor([True] * 4 + [False] * 3)
    total = 0.0
    for group in range(2):
        mean = [sum(probs[frame, group, entry].item() for frame in range(4)) / 4 for entry in range(5)]
        total += math.exp(-sum(p * math.log(p) for p in mean))
    assert diversity_loss(probs, counted).item() == pytest.approx((10 - total) / 10, rel=1e-5)


def test_perplexity_of_shares_that_are_zero():
    shares = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], requires_grad=True)
    found = perplexity(shares)
    assert found.tolist() == pytest.approx([2.0, 1.0])
    found.sum().backward()
    assert shares.grad.isfinite().all()


def test_usage():
    codes = torch.tensor([[0, 1], [2, 1], [0, 3], [1, 0]])
    shares = usage(codes, torch.tensor([1, 1, 1, 0]), 4)
    expected = [[2 / 3, 0, 1 / 3, 0], [0, 2 / 3, 0, 1 / 3]]
    torch.testing.assert_close(shares, torch.tensor(expected))


def quantizer_and_latents(frames=9):
    torch.manual_seed(1)
    quantizer = GumbelQuantizer(6, groups=2, entries=4, dim=10)
    quantizer.scores.weight.data.mul_(0.3)
    return quantizer, torch.randn(frames, 6, requires_grad=True)


def test_quantizer_takes_the_best_entries_outside_training():
    quantizer, latents = quantizer_and_latents()
    found = quantizer.eval()(latents, temperature=2.0)
    scores = quantizer.scores(latents).view(9, 2, 4)
    for frame in range(9):
        best = [int(scores[frame, group].argmax()) for group in range(2)]
        assert found.codes[frame].tolist() == best
        entries = [quantizer.codebooks[group, entry] for group, entry in enumerate(best)]
        assert torch.equal(found.vectors[frame], torch.cat(entries))
    torch.testing.assert_close(found.probs, scores.softmax(-1))
    # Nothing but the choice depends on the latents, and that has no slope.
    assert torch.autograd.grad(found.vectors.sum(), latents, allow_unused=True)[0] is None


def test_quantizer_passes_gradients_as_if_the_choice_were_soft():
    quantizer, latents = quantizer_and_latents()
    noise, slope = torch.randn(9, 2, 4), torch.randn(9, 10)
    found = quantizer(latents, 0.7, noise)
    hard = (quantizer.scores(latents).view(9, 2, 4) + noise).argmax(-1)
    assert torch.equal(found.codes, hard)
    for frame, (first, second) in enumerate(hard.tolist()):
        chosen = torch.cat([quantizer.codebooks[0, first], quantizer.codebooks[1, second]])
        assert torch.equal(found.vectors[frame], chosen)
    soft = ((quantizer.scores(latents).view(9, 2, 4) + noise) / 0.7).softmax(-1)
    mixed = torch.einsum("ngv,gvd->ngd", soft, quantizer.codebooks.detach()).flatten(1)
    expected = torch.autograd.grad((mixed * slope).sum(), latents)[0]
    torch.testing.assert_close(torch.autograd.grad((found.vectors * slope).sum(), latents)[0], expected)
    assert expected.abs().max() > 0.01


def test_quantizer_chooses_with_the_probabilities_of_its_scores():
    quantizer, latents = quantizer_and_latents(frames=1)
    found = quantizer(latents.expand(4000, -1), temperature=2.0)
    for group in range(2):
        shares = torch.bincount(found.codes[:, group], minlength=4) / 4000
        assert (shares - found.probs[0, group]).abs().max() < 0.03


def test_the_temperature_falls_with_the_updates():
    objective = Wav2Vec2Objective(Wav2Vec2Config(), SimpleNamespace(dim=6, latent_dim=5))
    assert objective.gumbel_temperature == 2.0
    objective.update = 100_000
    assert objective.gumbel_temperature == pytest.approx(2 * 0.999995**100_000)
    objective.update = 1_000_000
    assert objective.gumbel_temperature == 0.5


def test_the_penalty_is_that_of_the_features_of_each_utterance():
    torch.manual_seed(0)
    config = Wav2Vec2Config(feature_penalty=2.0, diversity_weight=0.0)
    objective = Wav2Vec2Objective(config, SimpleNamespace(dim=6, latent_dim=5)).eval()
    frames, latents, features = torch.randn(2, 9, 6), torch.randn(2, 9, 5), torch.randn(2, 18, 3)
    mask = torch.arange(9) < torch.tensor([[4], [2]])
    output = EncoderOutput(frames, torch.tensor([9, 5]), [], latents, features)
    loss, stats, _ = objective.loss(output, (None, torch.tensor([18, 11])), None, mask, torch.arange(2))
    bare = objective.loss(output._replace(features=None), (None, None), None, mask, torch.arange(2))[0]
    expected = 2 * (4 * features[0].square().mean() + 2 * features[1, :11].square().mean())
    torch.testing.assert_close(loss - bare, expected)
    torch.testing.assert_close(stats["feature_penalty"], expected)


def test_targets_of_a_changed_view_come_from_the_clean_audio():
    speech = SpeechEncoder(build(SpeechConfig, {"encoder": ENCODER | {"subsampling": 2}}, "test")).eval()
    objective = Wav2Vec2Objective(Wav2Vec2Config(), speech)
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000])
    latents, feature_lengths = objective.targets(speech, waveforms, lengths, changed=True)
    torch.testing.assert_close(latents, speech(waveforms, lengths).latents)
    assert latents.requires_grad and feature_lengths.tolist() == [50, 38]
    assert objective.targets(speech, waveforms, lengths, changed=False)[0] is None


def test_standardized_latents_are_told_apart_whatever_all_frames_have_in_common():
    torch.manual_seed(0)
    speech = SimpleNamespace(dim=6, latent_dim=8)
    latents, lengths = torch.randn(2, 90, 8), torch.tensor([90, 60])
    shifted = 0.1 * latents + 5.0 * torch.randn(8)
    mask = torch.arange(90) < torch.tensor([[50], [40]])
    used = {}
    for standard in (True, False):
        config = Wav2Vec2Config(standardize=standard, entries=32)
        objective = Wav2Vec2Objective(config, speech).eval()
        for name, x in (("plain", latents), ("shifted", shifted)):
            output = EncoderOutput(torch.randn(2, 90, 6), lengths, [], x)
            _, stats, weight = objective.loss(output, (None, None), None, mask, torch.arange(2))
            used[standard, name] = (stats["code_perplexity"] / weight).item()
    assert used[True, "shifted"] == pytest.approx(used[True, "plain"], rel=1e-4)
    assert used[False, "shifted"] < 0.5 * used[False, "plain"]


@pytest.mark.parametrize("learn_latents", [True, False])
def test_latents_learn_from_being_targets_if_they_are_to(learn_latents):
    objective = Wav2Vec2Objective(
        Wav2Vec2Config(learn_latents=learn_latents), SimpleNamespace(dim=6, latent_dim=6)
    )
    latents, lengths = torch.randn(2, 9, 6, requires_grad=True), torch.tensor([9, 7])
    output = EncoderOutput(torch.randn(2, 9, 6, requires_grad=True), lengths, [], latents)
    mask = torch.arange(9) < torch.tensor([[5], [4]])
    objective.loss(output, (None, lengths), None, mask, torch.arange(2))[0].backward()
    assert output.frames.grad.any()
    assert (latents.grad is not None and latents.grad.any().item()) == learn_latents


def test_learns(tmp_path):
    """The loss falls far below that of guesses among the targets that differ."""
    torch.manual_seed(0)
    settings = {
        "data": {"train": "synthetic:8"},
        "crop_seconds": 1.0,
        "speech": {"encoder": ENCODER | {"subsampling": 2}},
        "objective": {"name": "wav2vec2", "negatives": 20, "entries": 64, "target_dropout": 0.0},
    }
    task = SslTask(build(SslConfig, settings, "test"), tmp_path, seed=0)
    model = task.build_model()
    batch = task.collate(synthetic_cuts(8), random.Random(0))
    last = learn(task, model, batch, updates=90, lr=3e-3)[-1]
    model.objective.config.temperature, model.objective.config.diversity_weight = 1e9, 0.0
    loss, _, weight = task.loss(model, batch)
    guess = loss.item() / weight.item()
    assert 0.8 * math.log(21) < guess <= math.log(21) + 1e-4
    assert last["loss"] < 0.5 * guess
    assert last["accuracy"] > 0.6 and last["code_perplexity"] > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 0}, "groups >= 1"),
        ({"entries": 1}, "entries >= 2"),
        ({"negatives": 0}, "negatives >= 1"),
        ({"codevector_dim": 255}, "codevector_dim must be a multiple of groups, got 255 and 2"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"gumbel_temperature": (0.5, 2.0)}, "first >= last > 0"),
        ({"gumbel_decay": 1.5}, "gumbel_decay <= 1"),
        ({"target_dropout": 1.0}, "target_dropout < 1"),
        ({"feature_penalty": -1.0}, "feature_penalty >= 0"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Wav2Vec2Config(**settings)

"""BEST-RQ: targets and loss against plain loops in double precision; and that it learns."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from tests.tasks.small import ENCODER, learn
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.features import Fbank
from toolkit.ssl import best_rq
from toolkit.ssl.best_rq import BestRqConfig, BestRqObjective, RandomQuantizer, stack
from toolkit.ssl.quantizer import standardize
from toolkit.tasks.ssl import SslConfig, SslTask


def speech_of(subsampling, rate=16000):
    frontend, encoder = {"name": "fbank", "sample_rate": rate}, ENCODER | {"subsampling": subsampling}
    return SpeechEncoder(build(SpeechConfig, {"frontend": frontend, "encoder": encoder}, "test")).eval()


def like(latent_lengths, frame_shift=0.02):
    """What an objective looks at of an encoder."""
    config = SimpleNamespace(frontend=SimpleNamespace(sample_rate=16000))
    return SimpleNamespace(dim=6, frame_shift=frame_shift, latent_lengths=latent_lengths, config=config)


def make(**settings):
    waveform_like = like(lambda samples: (samples - 400) // 320 + 1)
    return BestRqObjective(BestRqConfig(entries=12, entry_dim=4, **settings), waveform_like)


def test_standardize():
    torch.manual_seed(0)
    features = 3 * torch.randn(2, 8, 4) + 5
    features[1, 5:] = torch.nan
    found = standardize(features, torch.tensor([8, 5]))
    for row, length in enumerate((8, 5)):
        own = features[row, :length].double()
        expected = (own - own.mean(0)) / own.std(0, correction=0)
        torch.testing.assert_close(found[row, :length].double(), expected, rtol=1e-4, atol=1e-5)
    assert found[1, 5:].abs().max() == 0
    assert standardize(torch.zeros(1, 3, 4), torch.tensor([0])).abs().max() == 0


@pytest.mark.parametrize("start", [-3, 0, 2])
def test_stack(start):
    features = torch.randn(2, 9, 3)
    found = stack(features, start, 2, 6)
    assert found.shape == (2, 6, 6)
    for frame in range(6):
        for place in range(2):
            index = start + 2 * frame + place
            expected = features[:, index] if 0 <= index < 9 else torch.zeros(2, 3)
            assert torch.equal(found[:, frame, 3 * place : 3 * place + 3], expected)


def test_codes_are_the_nearest_entries_of_each_codebook(monkeypatch):
    monkeypatch.setattr(best_rq, "SCORES_AT_ONCE", 200)
    quantizer = RandomQuantizer(10, codebooks=3, entries=20, entry_dim=4, seed=0)
    features = torch.randn(7, 10)
    codes = quantizer(quantizer.project(features))
    assert codes.shape == (7, 3)
    for row in range(7):
        for book in range(3):
            point = features[row].double() @ quantizer.projection[:, 4 * book : 4 * book + 4].double()
            distances = (quantizer.codebooks[book].double() - point / point.norm()).norm(dim=-1)
            assert codes[row, book] == distances.argmin()


def test_codebooks_come_from_the_seed_and_are_saved_but_not_learned():
    first, same, other = (make(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.quantizer.codebooks, same.quantizer.codebooks)
    assert not torch.equal(first.quantizer.codebooks, other.quantizer.codebooks)
    assert not torch.equal(first.quantizer.projection, other.quantizer.projection)
    assert {"quantizer.codebooks", "quantizer.projection"} < set(first.state_dict())
    assert [name for name, _ in first.named_parameters()] == ["head.weight", "head.bias"]
    torch.testing.assert_close(first.quantizer.codebooks.norm(dim=-1), torch.ones(1, 12))


@pytest.mark.parametrize(("subsampling", "rate"), [(2, 16000), (4, 16000), (2, 8000)])
def test_a_target_describes_the_audio_of_its_frame(subsampling, rate, monkeypatch):
    """A click changes most the target of the frame in whose middle it is."""
    monkeypatch.setattr(best_rq, "standardize", lambda features, lengths: features)
    speech = speech_of(subsampling, rate)
    objective = BestRqObjective(BestRqConfig(), speech)
    silence, length = 1e-3 * torch.randn(1, rate // 2), torch.tensor([rate // 2])
    before = objective.targets(speech, silence, length, changed=False)
    for frame in (3, 8):
        # An encoder frame is centred on one of 10 ms.
        click = torch.zeros_like(silence)
        click[0, rate // 100 * subsampling * frame + rate // 200] = 0.5
        change = objective.targets(speech, silence + click, length, changed=False) - before
        assert change[0].norm(dim=-1).argmax() == frame


@pytest.mark.parametrize(
    ("latent_lengths", "start"),
    [
        # Convolutions on samples: frame 0 sees 0 to 400, features 0 and 1 are centred at 80 and 240.
        (lambda samples: (samples - 400) // 320 + 1, 0),
        # Convolutions on features without padding: frame 0 sees 0 to 8, of which 4 is the middle.
        (lambda samples: (max((samples + 80) // 160, 9) - 7) // 2, 3),
    ],
)
def test_targets_of_encoders_that_do_not_pad(latent_lengths, start):
    objective = BestRqObjective(BestRqConfig(), like(latent_lengths))
    assert (objective.stacked, objective.start) == (2, start)


def test_targets_are_projected_features_of_the_utterance():
    speech = speech_of(2)
    objective = BestRqObjective(BestRqConfig(codebooks=2, entry_dim=4), speech)
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5120])
    targets = objective.targets(speech, waveforms, lengths, changed=False)
    assert targets.shape == (2, 25, 8) and not targets.requires_grad
    features = Fbank()(waveforms[1:, :5120], lengths[1:])[0][0]
    features = (features - features.mean(0)) / features.std(0, correction=0)
    place = objective.start + 2 * 10
    expected = features[place : place + 2].flatten() @ objective.quantizer.projection
    torch.testing.assert_close(targets[1, 10], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_loss(unmasked_weight):
    torch.manual_seed(0)
    objective = make(codebooks=2, unmasked_weight=unmasked_weight)
    frames, lengths = torch.randn(3, 9, 6), torch.tensor([9, 5, 7])
    targets, mask = torch.randn(3, 9, 8), torch.rand(3, 9) < 0.5
    output = EncoderOutput(frames, lengths, [])
    loss, stats, weight = objective.loss(output, targets, None, mask, torch.arange(3))

    head, total, right, count, masked = objective.head.double(), 0.0, 0, 0, 0
    chosen = [[0] * 12, [0] * 12]
    places = [(row, frame) for row, length in enumerate(lengths.tolist()) for frame in range(length)]
    for row, frame in places:
        hidden = mask[row, frame].item()
        if not hidden and not unmasked_weight:
            continue
        count += 1
        masked += hidden
        for book, code in enumerate(objective.quantizer(targets[row, frame][None])[0].tolist()):
            chosen[book][code] += 1
            scores = head(frames[row, frame].double())[12 * book : 12 * book + 12].tolist()
            loss_here = math.log(sum(math.exp(score - scores[code]) for score in scores)) / 2
            total += loss_here if hidden else unmasked_weight * loss_here
            right += hidden * (max(scores) == scores[code]) / 2
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert stats["accuracy"].item() == pytest.approx(right)
    assert weight.item() == masked > 5
    shares = [[n / count for n in times if n] for times in chosen]
    used = sum(math.exp(-sum(p * math.log(p) for p in book)) for book in shares) / 2
    assert stats["target_perplexity"].item() / masked == pytest.approx(used, rel=1e-4)


def test_learns(tmp_path):
    """The loss falls far below the entropy of the targets, which a guess by frequency reaches."""
    torch.manual_seed(0)
    settings = {
        "data": {"train": "synthetic:8"},
        "crop_seconds": 1.0,
        "speech": {"encoder": ENCODER | {"subsampling": 2}},
        "objective": {"name": "best_rq", "entries": 32, "codebooks": 2},
    }
    task = SslTask(build(SslConfig, settings, "test"), tmp_path, seed=0)
    model = task.build_model()
    batch = task.collate(synthetic_cuts(8), random.Random(0))
    last = learn(task, model, batch, updates=60, lr=5e-3)[-1]
    assert last["target_perplexity"] > 10
    assert last["loss"] < 0.5 * math.log(last["target_perplexity"])
    assert last["accuracy"] > 0.6


def test_an_encoder_with_frames_at_no_multiple_of_ten_milliseconds():
    speech = like(lambda samples: samples // 400, 0.025)
    with pytest.raises(
        UserError, match="best_rq needs an encoder with frames at a multiple of 0.01 s, found"
    ):
        BestRqObjective(BestRqConfig(), speech)


@pytest.mark.parametrize(
    "settings", [{"codebooks": 0}, {"entries": 1}, {"entry_dim": 0}, {"num_mel_bins": 4}]
)
def test_impossible_settings(settings):
    with pytest.raises(ValueError, match="are needed"):
        BestRqConfig(**settings)


def test_a_negative_weight():
    with pytest.raises(ValueError, match="unmasked_weight must not be negative, got -1"):
        BestRqConfig(unmasked_weight=-1)

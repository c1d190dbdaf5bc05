"""SpecAugment: what it hides, where, and what it leaves alone."""

import numpy as np
import pytest
import torch

from toolkit.errors import UserError
from toolkit.nn.specaugment import SpecAugment, SpecAugmentConfig, time_warp

NO_WARP = {"time_warp": 0, "prob": 1.0}


def apply(
    config: SpecAugmentConfig, features: torch.Tensor, lengths: list[int], seed: int = 0
) -> torch.Tensor:
    augment = SpecAugment(config)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(features), augment.num_draws, generator=generator)
    return augment(features, torch.tensor(lengths), draws)


def test_masks_respect_lengths_and_limits():
    config = SpecAugmentConfig(num_time_masks=3, num_feature_masks=2, feature_mask_size=5, **NO_WARP)
    features = torch.randn(200, 100, 20)
    lengths = [int(n) for n in torch.randint(1, 101, (200,))]
    changed = apply(config, features, lengths)
    shares = []
    for before, after, length in zip(features, changed, lengths, strict=True):
        assert torch.equal(before[length:], after[length:])
        differs = before[:length] != after[:length]
        whole_frames, whole_bins = differs.all(1), differs.all(0)
        assert whole_bins.sum() <= 10 or whole_frames.all()
        assert whole_frames.sum() <= 0.15 * length or whole_bins.sum() == 20
        # Nothing but whole frames and whole features is hidden, behind the utterance's mean.
        assert torch.equal(differs, whole_frames[:, None] | whole_bins[None, :])
        if differs.any():
            torch.testing.assert_close(after[:length][differs], before[:length].mean().expand(differs.sum()))
        shares.append(whole_frames.float().mean().item())
    assert 0.02 < np.mean(shares) < 0.15


def test_widths_and_starts_take_every_value():
    config = SpecAugmentConfig(num_time_masks=0, num_feature_masks=1, feature_mask_size=3, **NO_WARP)
    hidden = apply(config, torch.randn(2000, 2, 5), [2] * 2000, seed=1) == 0
    features = torch.arange(10.0).reshape(1, 2, 5).expand(2000, 2, 5)
    hidden = (apply(config, features, [2] * 2000) != features)[:, 0]
    widths = hidden.sum(1)
    counts = torch.bincount(widths)
    # Width 0..3 uniform; the middle of the five features equals the mean on no row, so nothing hides a mask.
    assert len(counts) == 4
    assert (counts / 2000 - 0.25).abs().max() < 0.05
    assert hidden[widths == 1].float().mean(0).sub(0.2).abs().max() < 0.06


def test_share_of_utterances_and_evaluation_mode():
    config = SpecAugmentConfig(prob=0.3, num_time_masks=1, max_time_share=1.0)
    features = torch.randn(1000, 40, 8)
    same = (apply(config, features, [40] * 1000) == features).flatten(1).all(1).float().mean()
    assert 0.65 < same < 0.8
    augment = SpecAugment(config).eval()
    assert augment(features, torch.full((1000,), 40), torch.rand(1000, augment.num_draws)) is features


def test_an_utterance_does_not_depend_on_its_batch():
    features, lengths = torch.randn(3, 50, 8), [50, 20, 1]
    augment = SpecAugment(SpecAugmentConfig(prob=0.9))
    draws = torch.rand(3, augment.num_draws)
    together = augment(features, torch.tensor(lengths), draws)
    for i, length in enumerate(lengths):
        alone = augment(features[i : i + 1, :length], torch.tensor([length]), draws[i : i + 1])
        torch.testing.assert_close(alone[0], together[i, :length])


def test_time_warp_is_piecewise_linear():
    length, reach = 60, 10
    features = torch.arange(80.0)[None, :, None].repeat(50, 1, 2)
    draws = torch.rand(50, 2)
    warped = time_warp(features, torch.full((50,), length), reach, draws)[:, :length, 0]
    for row, (place, move) in zip(warped, draws.tolist(), strict=True):
        point = reach + place * (length - 1 - 2 * reach)
        goal = point + (2 * move - 1) * reach
        expected = np.interp(np.arange(length), [0, goal, length - 1], [0, point, length - 1])
        np.testing.assert_allclose(row, expected, atol=1e-3)


def test_time_warp_moves_nothing_without_room():
    features = torch.randn(2, 5, 3)
    torch.testing.assert_close(
        time_warp(features, torch.tensor([1, 2]), 80, torch.rand(2, 2))[:, :1], features[:, :1]
    )


@pytest.mark.parametrize("key, value", [("prob", 1.5), ("time_warp", -1), ("max_time_share", -0.1)])
def test_wrong_settings_are_named(key, value):
    with pytest.raises(UserError, match=key):
        SpecAugmentConfig(**{key: value})

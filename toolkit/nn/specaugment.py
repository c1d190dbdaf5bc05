"""SpecAugment: warps time and hides bands of time and frequency.

Dimension legend: B utterances, T frames, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.nn.masks import valid_mask


@dataclass
class SpecAugmentConfig:
    """How much is hidden; apart from `prob`, the defaults suit log mel filter banks at 10 ms."""

    prob: float = 0.0
    """Share of utterances that are changed, such as 0.9; 0 for no SpecAugment."""
    time_warp: int = 80
    """Frames that a point of the utterance is moved at most; 0 for none."""
    num_time_masks: int = 10
    """Masks over time."""
    time_mask_size: int = 100
    """Most frames of a mask over time."""
    max_time_share: float = 0.15
    """Most frames that all masks over time hide together, as a share of the utterance."""
    num_feature_masks: int = 2
    """Masks over features."""
    feature_mask_size: int = 27
    """Most features of a mask over features."""

    def __post_init__(self) -> None:
        for name in (
            "time_warp",
            "num_time_masks",
            "time_mask_size",
            "num_feature_masks",
            "feature_mask_size",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: found {getattr(self, name)}, expected 0 or more")
        for name in ("prob", "max_time_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: found {getattr(self, name)}, expected 0 to 1")


class SpecAugment(nn.Module):
    """Warps time, then replaces bands by the utterance's mean; in training mode only.

    The random numbers are an argument, so that the caller decides what they depend on: those hashed from each
    utterance's seed give the same masks for any number of processes. There is no host sync.

    Source: Park et al., "SpecAugment", Interspeech 2019; the cap on hidden frames: Park et al., ICASSP 2020.
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def num_draws(self) -> int:
        """N, random numbers that an utterance needs."""
        return 3 + 2 * (self.config.num_time_masks + self.config.num_feature_masks)

    def forward(self, features: Tensor, lengths: Tensor, draws: Tensor) -> Tensor:
        """Augments a padded batch.

        Args:
            features: (B, T, F).
            lengths: (B,) valid frames; what lies past them stays as it is.
            draws: (B, N) random numbers in [0, 1), N = num_draws.

        Returns:
            (B, T, F).
        """
        if not self.training:
            return features
        chosen = valid_mask(lengths, features.shape[1]) & (draws[:, :1] < self.config.prob)
        changed = features
        if self.config.time_warp:
            changed = time_warp(changed, lengths, self.config.time_warp, draws[:, 1:3])
        hidden = self._hidden(features, lengths, draws[:, 3:, None])
        count = (lengths * features.shape[2]).clamp(min=1)[:, None, None]
        mean = (changed * chosen[:, :, None]).sum((1, 2), keepdim=True) / count
        changed = torch.where(hidden, mean.to(changed.dtype), changed)
        return torch.where(chosen[:, :, None], changed, features)

    def _hidden(self, features: Tensor, lengths: Tensor, draws: Tensor) -> Tensor:
        """(B, T, F) bool, True where a mask over time or over features lies."""
        config, (_, num_frames, dim) = self.config, features.shape
        over_time, over_features = draws.tensor_split([2 * config.num_time_masks], dim=1)
        share = lengths * (config.max_time_share / max(1, config.num_time_masks))
        in_time = _bands(over_time, lengths, share.floor().clamp(max=config.time_mask_size), num_frames)
        dims = torch.full_like(lengths, dim)
        in_features = _bands(over_features, dims, dims.clamp(max=config.feature_mask_size), dim)
        return in_time[:, :, None] | in_features[:, None, :]


def time_warp(features: Tensor, lengths: Tensor, reach: int, draws: Tensor) -> Tensor:
    """Moves one point of each utterance by up to `reach` frames; what lies on either side stretches along.

    Args:
        features: (B, T, F).
        lengths: (B,) valid frames; an utterance too short to move a point by `reach` is moved by less.
        reach: frames.
        draws: (B, 2) random numbers in [0, 1): where the point is, and where it goes.

    Returns:
        (B, T, F), frames interpolated linearly.
    """
    last = (lengths - 1).clamp(min=0)
    reach = torch.minimum(torch.full_like(last, reach), last // 3)
    point = reach + draws[:, 0] * (last - 2 * reach)
    goal = point + (2 * draws[:, 1] - 1) * reach
    times = torch.arange(features.shape[1], device=features.device)
    last, point, goal = (x[:, None].float() for x in (last, point, goal))
    before = times * point / goal.clamp(min=1)
    after = point + (times - goal) * (last - point) / (last - goal).clamp(min=1)
    source = torch.where(times < goal, before, after).clamp(min=0)
    source = torch.minimum(source, last)
    low = source.floor()
    return torch.lerp(
        _take(features, low),
        _take(features, torch.minimum(low + 1, last)),
        (source - low)[:, :, None].to(features.dtype),
    )


def _take(features: Tensor, times: Tensor) -> Tensor:
    return features.gather(1, times.long()[:, :, None].expand(-1, -1, features.shape[2]))


def _bands(draws: Tensor, sizes: Tensor, widest: Tensor, length: int) -> Tensor:
    """Marks bands at random: widths are uniform over 0..widest, starts over where the band fits.

    Args:
        draws: (B, 2 M, 1) random numbers for width and start of M bands.
        sizes: (B,) positions that exist.
        widest: (B,) greatest width.
        length: L, the padded number of positions.

    Returns:
        (B, L) bool, True in any band.
    """
    width = (draws[:, ::2] * (widest[:, None, None] + 1)).floor()
    start = (draws[:, 1::2] * (sizes[:, None, None] - width + 1)).floor()
    positions = torch.arange(length, device=draws.device)
    return ((positions >= start) & (positions < start + width)).any(dim=1)

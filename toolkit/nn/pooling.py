"""Pooling: many layers into one, many frames into one vector.

Dimensions: B utterances, T frames, D channels, L layers.
"""

import torch
from torch import Tensor, nn

from toolkit.nn.masks import valid_mask


class WeightedLayerSum(nn.Module):
    """A learned convex combination of an encoder's layers; starts as their mean.

    Source: Yang et al. 2021, "SUPERB: Speech processing Universal PERformance Benchmark", section 3.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers))

    def forward(self, layers: list[Tensor]) -> Tensor:
        """Layers, each (B, T, D), to (B, T, D)."""
        return sum(weight * layer for weight, layer in zip(self.logits.softmax(0), layers, strict=True))


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation, weighted by a small network that says which frames tell most.

    Source: Okabe et al. 2018, "Attentive Statistics Pooling for Deep Speaker Embedding", equations 3 to 6.
    """

    def __init__(self, dim: int, attention_dim: int = 64) -> None:
        super().__init__()
        self.output_dim = 2 * dim
        self.attention = nn.Sequential(nn.Linear(dim, attention_dim), nn.Tanh(), nn.Linear(attention_dim, 1))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, D) and lengths (B,), each at least 1, to (B, 2 D)."""
        padding = ~valid_mask(lengths, frames.shape[1])
        scores = self.attention(frames).float().masked_fill(padding[..., None], -torch.inf)
        return weighted_statistics(frames, scores.softmax(1))


def weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and standard deviation over frames, in float32.

    Args:
        frames: (B, T, D).
        weights: (B, T, 1), summing to 1 over the frames of an utterance, 0 on padding.

    Returns:
        (B, 2 D): the mean, then the standard deviation.
    """
    # Padding may hold anything, even NaN, which a weight of 0 would not remove.
    frames = frames.float().masked_fill(weights == 0, 0.0)
    mean = (weights * frames).sum(1)
    variance = (weights * (frames - mean[:, None]).square()).sum(1)
    # The floor keeps the square root's gradient finite on constant channels.
    return torch.cat([mean, variance.clamp_min(1e-7).sqrt()], dim=-1)

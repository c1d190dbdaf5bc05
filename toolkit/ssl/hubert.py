"""Masked prediction of cluster labels (HuBERT, arXiv 2106.07447; the linear form of k2SSL, arXiv 2411.17100).

Dimensions: B utterances, T frames, N frames of an utterance that count, D encoder width, S label streams, C clusters of
a stream, E width of the code embeddings.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.models.base import SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.masks import valid_mask
from toolkit.ssl.masking import MaskConfig, draw_mask, most_hidden
from toolkit.ssl.model import Objective
from toolkit.ssl.rows import pick, weighted_rows


@dataclass
class HubertConfig:
    """What is masked and predicted."""

    name: str = "hubert"
    """Which objective this is."""
    num_classes: int | list[int] = 100
    """C, clusters of the labels; of each stream in turn if cuts have several labels a frame."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Which frames are hidden."""
    head: Literal["linear", "cosine"] = "linear"
    """What gives the scores: a linear layer (k2SSL), or how near a projection of the frame comes to an embedding of
    the cluster (HuBERT)."""
    final_dim: int = 256
    """E, width of projection and embeddings; for the cosine head."""
    temperature: float = 0.1
    """What the scores are divided by."""
    masked_weight: float = 1.0
    """Weight of the loss on masked frames."""
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked."""
    feature_penalty: float = 10.0
    """Weight of the mean square of the features, where the front end learns them."""

    def __post_init__(self) -> None:
        if not self.streams or min(self.streams) < 2 or self.final_dim < 1 or self.temperature <= 0:
            raise ValueError("num_classes >= 2, final_dim >= 1 and temperature > 0 are needed")
        weights = self.masked_weight, self.unmasked_weight, self.feature_penalty
        if min(weights) < 0 or not (self.masked_weight or self.unmasked_weight):
            raise ValueError(
                "masked_weight, unmasked_weight and feature_penalty must not be negative, nor the first two both 0"
            )
        if not self.mask.prob:
            raise ValueError("mask.prob must be positive")

    @property
    def streams(self) -> list[int]:
        """C of each stream."""
        return [self.num_classes] if isinstance(self.num_classes, int) else self.num_classes


class HubertObjective(Objective):
    """Cross-entropy over the clusters of frames, summed over streams (HuBERT, equation 2)."""

    Config = HubertConfig
    uses_labels = True

    def __init__(self, config: HubertConfig, speech: SpeechEncoder) -> None:
        super().__init__()
        self.config = config
        if config.head == "linear":
            self.head: nn.Module = nn.Linear(speech.dim, sum(config.streams))
        else:
            self.head = CosineHead(speech.dim, config.final_dim, sum(config.streams))

    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """(B, T) bool, True for hidden frames; see `draw_mask`."""
        return draw_mask(self.config.mask, lengths, frames, seeds)

    def targets(self, speech: SpeechEncoder, waveforms: Tensor, lengths: Tensor, changed: bool) -> Tensor:
        """(B,) valid frames of features, whose size is penalised."""
        return speech.frontend.output_lengths(lengths)

    def loss(
        self, output: EncoderOutput, targets: Tensor, labels: Tensor, mask: Tensor, seeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """How far off the encoder is; see `Objective.loss`.

        Returns:
            Loss; how many labels of masked frames are right, "accuracy" for the first stream, "accuracy_2" for the
            second, ..., and "feature_penalty", which is part of the loss; the number of masked frames.
        """
        config, frames = self.config, mask.shape[1]
        known = (labels >= 0).any(dim=-1) & valid_mask(output.lengths, frames)
        masked = mask & known
        # Frames that do not count may hold anything, even NaN, which a weight of 0 would not remove; nor need they be
        # computed.
        places, counted, is_masked, weights = weighted_rows(
            masked, known, most_hidden(config.mask, frames), config.masked_weight, config.unmasked_weight
        )
        scores = self.head(pick(output.frames, places, counted)).float() / config.temperature
        total, stats = scores.new_zeros(()), {}
        streams = zip(scores.split(config.streams, dim=-1), labels.unbind(dim=-1), strict=True)
        for number, (logits, stream) in enumerate(streams, start=1):
            target = stream.gather(1, places)
            losses = functional.cross_entropy(
                logits.flatten(0, 1), target.clamp(min=0).flatten(), reduction="none"
            ).view_as(target)
            total = total + (losses * weights * (target >= 0)).sum()
            correct = (logits.argmax(dim=-1) == target) & is_masked
            stats["accuracy" if number == 1 else f"accuracy_{number}"] = correct.sum()
        if output.features is not None and config.feature_penalty:
            penalty = (
                config.feature_penalty * (mean_square(output.features, targets) * masked.sum(dim=1)).sum()
            )
            total, stats["feature_penalty"] = total + penalty, penalty.detach()
        return total, stats, masked.sum()


class CosineHead(nn.Module):
    """How near the projection of a frame comes to the embedding of each code: (..., D) to (..., C) in [-1, 1]."""

    def __init__(self, dim: int, final_dim: int, num_classes: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, final_dim)
        self.codes = nn.Parameter(torch.empty(num_classes, final_dim).uniform_())

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, C), in float32 under autocast too."""
        projected = self.projection(x)
        # In half precision the scores, which are yet to be divided by the temperature, would keep 3 digits.
        with torch.autocast(x.device.type, enabled=False):
            projected = functional.normalize(projected.float(), dim=-1)
            return projected @ functional.normalize(self.codes.float(), dim=-1).T


def mean_square(features: Tensor, lengths: Tensor) -> Tensor:
    """Of each utterance's features, (B, T, F) with (B,) valid frames to (B,).

    Over each utterance alone, so that padding, batches and ranks do not change it.
    """
    valid = valid_mask(lengths, features.shape[1])[..., None]
    squares = features.float().masked_fill(~valid, 0.0).square().sum(dim=(1, 2))
    return squares / (lengths * features.shape[2]).clamp(min=1)

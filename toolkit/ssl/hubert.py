"""Masked prediction of cluster labels (HuBERT, arXiv 2106.07447; the linear form of k2SSL, arXiv 2411.17100).

Dimensions: B utterances, T frames, D encoder width, C clusters.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.models.base import SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.masks import valid_mask
from toolkit.ssl.masking import MaskConfig, draw_mask
from toolkit.ssl.model import Objective


@dataclass
class HubertConfig:
    """What is masked and predicted."""

    name: str = "hubert"
    """Which objective this is."""
    num_classes: int = 100
    """C, clusters of the labels."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Which frames are hidden."""
    temperature: float = 0.1
    """What the scores are divided by."""
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked."""

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.temperature <= 0:
            raise ValueError("num_classes >= 2 and temperature > 0 are needed")


class HubertObjective(Objective):
    """Cross-entropy over the clusters of masked frames, from one linear layer."""

    Config = HubertConfig
    uses_labels = True

    def __init__(self, config: HubertConfig, speech: SpeechEncoder) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(speech.dim, config.num_classes)

    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """(B, T) bool, True for hidden frames; see `draw_mask`."""
        return draw_mask(self.config.mask, lengths, frames, seeds)

    def loss(
        self, output: EncoderOutput, targets: None, labels: Tensor, mask: Tensor, seeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, the statistic "accuracy" (summed over masked frames), and the number of masked frames."""
        targets = labels[..., 0]
        known = (targets >= 0) & valid_mask(output.lengths, targets.shape[1])
        # To pick out the frames, a GPU would have to tell their number first, for which the CPU would wait. The others
        # may hold anything, even NaN, which a weight of 0 would not remove.
        frames = output.frames.masked_fill(~known[..., None], 0.0)
        logits = self.head(frames).float() / self.config.temperature
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets.clamp(min=0).flatten(), reduction="none"
        ).view_as(targets)
        weights = torch.where(mask, 1.0, self.config.unmasked_weight) * known
        correct = (logits.argmax(dim=-1) == targets) & mask & known
        return (losses * weights).sum(), {"accuracy": correct.sum()}, (mask & known).sum()

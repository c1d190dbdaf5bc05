"""The transducer: a prediction network and a joiner on top of an encoder (Graves 2012, arXiv 1211.3711).

Dimensions: B utterances, T frames, U symbols of a transcript, D encoder width, P predictor width, J joiner width,
V symbols.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolkit.config import choice
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.models.predictors import PREDICTORS


@dataclass
class TransducerConfig:
    """The transducer head."""

    scale: float = 0.0
    """Of its loss in the sum; 0 for a model without it."""
    predictor: Any = choice(PREDICTORS, "stateless")
    """What it knows of the symbols so far."""
    joiner_dim: int = 512
    """J, where encoder and predictor meet."""
    pruned: bool = True
    """Whether only a band of alignments is summed up, which a simple model finds; else all of them."""
    loss: TransducerLossConfig = field(default_factory=TransducerLossConfig)
    """How alignments are summed up."""
    simple_scale: float = 0.5
    """Of the simple model's loss, once the warm-up is over; it begins at 1."""
    warmup_updates: int = 2000
    """Updates over which the loss of the band rises from a tenth to its whole."""

    def __post_init__(self) -> None:
        for name in ("scale", "simple_scale", "warmup_updates"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.joiner_dim < 1:
            raise ValueError(f"joiner_dim must be at least 1, got {self.joiner_dim}")

    def loss_scales(self, update: int) -> tuple[float, float]:
        """What the simple and the pruned loss are multiplied by (icefall's warm-up)."""
        done = min(1.0, update / self.warmup_updates) if self.warmup_updates else 1.0
        return 1.0 - done * (1.0 - self.simple_scale), 0.1 + 0.9 * done


class TransducerOutput(NamedTuple):
    """What the losses of a transducer need."""

    encoder: Tensor
    """(B, T, J) projected frames."""
    predictor: Tensor
    """(B, U + 1, J) projected outputs of the predictor."""
    am: Tensor | None
    """(B, T, V) logits from the frames alone; None if nothing is pruned."""
    lm: Tensor | None
    """(B, U + 1, V) logits from the symbols alone; None likewise."""


class Joiner(nn.Module):
    """Logits of the next symbol, from a frame and the symbols so far."""

    def __init__(self, encoder_dim: int, predictor_dim: int, dim: int, num_symbols: int) -> None:
        super().__init__()
        self.encoder_proj = nn.Linear(encoder_dim, dim)
        self.predictor_proj = nn.Linear(predictor_dim, dim)
        self.output = nn.Linear(dim, num_symbols)

    def forward(self, encoder: Tensor, predictor: Tensor) -> Tensor:
        """Both projected already, (..., J), to logits (..., V)."""
        return self.output(torch.tanh(encoder + predictor))


class Transducer(nn.Module):
    """Predictor and joiner, with the two linear layers of the simple loss that finds the pruning bounds.

    Attributes:
        topology: of the alignments that it was trained with; searches keep to it.
    """

    def __init__(self, config: TransducerConfig, encoder_dim: int, num_symbols: int) -> None:
        super().__init__()
        self.topology = config.loss.topology
        self.predictor = PREDICTORS[config.predictor.name](config.predictor, num_symbols)
        self.joiner = Joiner(encoder_dim, self.predictor.dim, config.joiner_dim, num_symbols)
        self.simple_encoder = self.simple_predictor = None
        if config.pruned:
            self.simple_encoder = _small(nn.Linear(encoder_dim, num_symbols))
            self.simple_predictor = _small(nn.Linear(self.predictor.dim, num_symbols))

    def forward(self, frames: Tensor, tokens: Tensor) -> TransducerOutput:
        """(B, T, D) encoder frames and (B, U) symbols to what the losses need."""
        predicted = self.predictor(tokens)
        simple = self.simple_encoder is not None
        return TransducerOutput(
            self.joiner.encoder_proj(frames),
            self.joiner.predictor_proj(predicted),
            self.simple_encoder(frames) if simple else None,
            self.simple_predictor(predicted) if simple else None,
        )


def _small(linear: nn.Linear) -> nn.Linear:
    """Scales down what a layer begins with, as icefall does: the first simple loss is that of a uniform model."""
    with torch.no_grad():
        linear.weight.mul_(0.25)
        linear.bias.mul_(0.25)
    return linear

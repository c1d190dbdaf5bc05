"""Language models over the symbols of a recogniser: the next symbol from those before it.

Symbol 0, elsewhere the blank, stands for start and end of a sentence.

Dimensions: B sentences, U symbols of a sentence, V symbols, P width, N hypotheses.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.models.base import TaskModel
from toolkit.models.predictors import (
    LstmConfig,
    LstmPredictor,
    Predictor,
    State,
    TransformerPredictor,
    TransformerPredictorConfig,
)


@dataclass
class LstmLmConfig(LstmConfig):
    """A recurrent network over all symbols so far (icefall's RNN-LM)."""

    dim: int = 1024
    """P, the width of embeddings and layers."""
    num_layers: int = 2
    """LSTM layers."""
    tie_weights: bool = True
    """Whether the output layer has the embeddings as its weights (arXiv 1608.05859)."""


@dataclass
class TransformerLmConfig(TransformerPredictorConfig):
    """A causal Transformer over all symbols so far."""

    dim: int = 512
    """P; a multiple of 2 * num_heads."""
    num_layers: int = 6
    """Layers of attention and feed-forward networks."""
    num_heads: int = 8
    """Heads of each layer's attention."""
    feed_forward_dim: int = 2048
    """Width within the feed-forward networks."""
    tie_weights: bool = True
    """Whether the output layer has the embeddings as its weights (arXiv 1608.05859)."""


class LstmNetwork(LstmPredictor):
    """Embeddings and LSTM layers."""

    Config = LstmLmConfig


class TransformerNetwork(TransformerPredictor):
    """Embeddings and a causal Transformer."""

    Config = TransformerLmConfig


NETWORKS = {"lstm": LstmNetwork, "transformer": TransformerNetwork}


class LanguageModel(TaskModel):
    """A network over the symbols so far, as transducers have it, and an output layer.

    Args:
        config: of one of `NETWORKS`.
        num_symbols: V.
    """

    def __init__(self, config: Any, num_symbols: int) -> None:
        super().__init__()
        self.num_symbols = num_symbols
        self.network: Predictor = NETWORKS[config.name](config, num_symbols)
        self.output = nn.Linear(config.dim, num_symbols)
        if config.tie_weights:
            # As an output layer's; embeddings are usually larger by the root of the width.
            nn.init.normal_(self.network.embedding.weight, std=config.dim**-0.5)
            self.output.weight = self.network.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, U) symbols, padded with 0, to log-probabilities (B, U + 1, V), at least float32, of each next symbol.

        The first is that after none of them, and so on; symbol 0 is the end of the sentence.
        """
        return self._log_probs(self.network(tokens))

    def start(self, batch: int, device: torch.device | str) -> tuple[Tensor, State]:
        """Log-probabilities (N, V) of the first symbols of N = `batch` hypotheses, and their state."""
        hidden, state = self.network.start(batch, device)
        return self._log_probs(hidden), state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """(N, V) after one more symbol of each hypothesis (N,); where that is 0, all stays as it was."""
        hidden, state = self.network.step(tokens, state)
        return self._log_probs(hidden), state

    def _log_probs(self, hidden: Tensor) -> Tensor:
        logits = self.output(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

"""Prediction networks: what a transducer knows of the symbols so far.

All of them work on whole transcripts in training, and one symbol after the other in a search. Their state is a tuple
of tensors with a row for each hypothesis, so that `tuple(part[rows] for part in state)` picks and repeats hypotheses.

Dimensions: B utterances, U symbols of a transcript, V symbols, P width, K symbols of context, N hypotheses.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from toolkit.nn.causal import CausalTransformer
from toolkit.nn.dropout import Dropout
from toolkit.nn.shaping import Balancer

State = tuple[Tensor, ...]
"""What a predictor keeps of each hypothesis: tensors (N, ...)."""


class Predictor(Protocol):
    """What `PREDICTORS` holds: built as `Predictor(config, num_symbols)`."""

    dim: int
    """P."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, U) symbols, padded with 0, to (B, U + 1, P): after none of them, after one, and so on."""

    def start(self, batch: int, device: torch.device | str) -> tuple[Tensor, State]:
        """(N, P) before the first symbol of N = `batch` hypotheses, and their state."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """(N, P) after one more symbol of each hypothesis (N,); where that is 0, all stays as it was."""


@dataclass
class StatelessConfig:
    """The last few symbols, through a convolution."""

    name: str = "stateless"
    """Which predictor this is."""
    dim: int = 512
    """P; a multiple of 4."""
    context: int = 2
    """K, symbols that are seen."""

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 4 or self.context < 1:
            raise ValueError(
                f"dim must be a multiple of 4 and context at least 1, got {self.dim} and {self.context}"
            )


class StatelessPredictor(nn.Module):
    """Embeddings of the last K symbols and a grouped convolution (Ghodsi et al. 2020, as in icefall).

    What goes before a transcript is the blank, and before that zeros: the context of the first symbol is
    [-1, ..., -1, 0], where -1 stands for zeros.
    """

    Config = StatelessConfig

    def __init__(self, config: StatelessConfig, num_symbols: int) -> None:
        super().__init__()
        self.dim, self.context = config.dim, config.context
        self.embedding = nn.Embedding(num_symbols, config.dim)
        self.conv = None
        if config.context > 1:
            self.conv = nn.Conv1d(config.dim, config.dim, config.context, groups=config.dim // 4, bias=False)
        # They keep the embeddings from drifting in size, which averaging of weights would not bear.
        self.embedding_balancer = Balancer(0.0, 1.0, min_abs=0.5, max_abs=1.0, prob=0.05)
        self.conv_balancer = Balancer(0.0, 1.0, min_abs=0.5, max_abs=1.0, prob=0.05)

    def forward(self, tokens: Tensor) -> Tensor:
        """See `Predictor`."""
        return self.of_context(
            nn.functional.pad(nn.functional.pad(tokens, (1, 0)), (self.context - 1, 0), value=-1)
        )

    def of_context(self, tokens: Tensor) -> Tensor:
        """(B, K - 1 + U) symbols, -1 for none, to (B, U, P)."""
        embedded = self.embedding(tokens.clamp(min=0)) * (tokens >= 0)[..., None]
        embedded = self.embedding_balancer(embedded)
        if self.conv is None:
            return embedded
        hidden = self.conv(embedded.transpose(1, 2)).transpose(1, 2).relu()
        return self.conv_balancer(hidden)

    def start(self, batch: int, device: torch.device | str) -> tuple[Tensor, State]:
        """See `Predictor`."""
        context = torch.full((batch, self.context), -1, device=device)
        context[:, -1] = 0
        return self.of_context(context)[:, 0], (context,)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Predictor`."""
        (context,) = state
        moved = torch.cat([context[:, 1:], tokens[:, None]], dim=1)
        context = torch.where(tokens[:, None] > 0, moved, context)
        return self.of_context(context)[:, 0], (context,)


@dataclass
class LstmConfig:
    """A recurrent network over all symbols so far."""

    name: str = "lstm"
    """Which predictor this is."""
    dim: int = 512
    """P, the width of embeddings and layers."""
    num_layers: int = 1
    """LSTM layers."""
    dropout: float = 0.1
    """Dropout of embeddings and between layers."""

    def __post_init__(self) -> None:
        if self.dim < 1 or self.num_layers < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "dim and num_layers must be at least 1 and dropout in [0, 1), got "
                f"{self.dim}, {self.num_layers} and {self.dropout}"
            )


class LstmPredictor(nn.Module):
    """Embeddings and LSTM layers (Graves 2012, arXiv 1211.3711)."""

    Config = LstmConfig

    def __init__(self, config: LstmConfig, num_symbols: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.embedding = nn.Embedding(num_symbols, config.dim)
        self.dropout = Dropout(config.dropout)
        between = config.dropout if config.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(config.dim, config.dim, config.num_layers, batch_first=True, dropout=between)

    def forward(self, tokens: Tensor) -> Tensor:
        """See `Predictor`."""
        return self.lstm(self.dropout(self.embedding(nn.functional.pad(tokens, (1, 0)))))[0]

    def start(self, batch: int, device: torch.device | str) -> tuple[Tensor, State]:
        """See `Predictor`."""
        output, (hidden, cell) = self.lstm(
            self.embedding(torch.zeros(batch, 1, dtype=torch.int64, device=device))
        )
        return output[:, 0], (hidden.transpose(0, 1), cell.transpose(0, 1))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Predictor`."""
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        _, after = self.lstm(self.embedding(tokens[:, None]), before)
        new = (tokens > 0)[:, None, None]
        hidden, cell = (
            torch.where(new, part.transpose(0, 1), old) for part, old in zip(after, state, strict=True)
        )
        # The output of an LSTM is the hidden state of its last layer.
        return hidden[:, -1], (hidden, cell)


@dataclass
class TransformerPredictorConfig:
    """A causal Transformer over all symbols so far."""

    name: str = "transformer"
    """Which predictor this is."""
    dim: int = 256
    """P; a multiple of 2 * num_heads."""
    num_layers: int = 2
    """Transformer layers."""
    num_heads: int = 4
    """Attention heads."""
    feed_forward_dim: int = 1024
    """Width within the feed-forward networks."""
    dropout: float = 0.1
    """Dropout of embeddings and in the layers."""

    def __post_init__(self) -> None:
        if self.num_layers < 1 or self.num_heads < 1 or self.dim % (2 * self.num_heads):
            raise ValueError(
                "num_layers and num_heads must be at least 1 and dim a multiple of 2 * num_heads, got "
                f"{self.num_layers}, {self.num_heads} and {self.dim}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class TransformerPredictor(nn.Module):
    """Embeddings and a causal Transformer (Transformer Transducer, arXiv 2002.02562)."""

    Config = TransformerPredictorConfig

    def __init__(self, config: TransformerPredictorConfig, num_symbols: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.embedding = nn.Embedding(num_symbols, config.dim)
        self.dropout = Dropout(config.dropout)
        self.transformer = CausalTransformer(
            config.dim, config.num_layers, config.num_heads, config.feed_forward_dim, config.dropout
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """See `Predictor`."""
        return self.transformer(self.dropout(self.embedding(nn.functional.pad(tokens, (1, 0)))))

    def start(self, batch: int, device: torch.device | str) -> tuple[Tensor, State]:
        """See `Predictor`."""
        first = self.embedding(torch.zeros(batch, dtype=torch.int64, device=device))
        new = torch.ones(batch, dtype=torch.bool, device=device)
        output, state = self.transformer.step(first, new, self.transformer.initial_state(batch, device))
        return output, (output, *state)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """See `Predictor`."""
        before, *cache = state
        new = tokens > 0
        output, cache = self.transformer.step(self.embedding(tokens), new, tuple(cache))
        output = torch.where(new[:, None], output, before)
        return output, (output, *cache)


PREDICTORS = {
    "stateless": StatelessPredictor,
    "lstm": LstmPredictor,
    "transformer": TransformerPredictor,
}

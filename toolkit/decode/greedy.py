"""Greedy search of transducers, for all utterances of a batch at once, by label-looping (arXiv 2406.06220).

Each step takes every utterance to its own next symbol, over the blanks before it: as nothing changes in the predictor
until then, the joiner looks at a block of frames at a time. So there are as many steps as symbols and blocks in the
utterance that has most of them, not as many as frames.

Dimensions: B utterances, T frames, D encoder width, J joiner width, V symbols, S frames of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.decode.hypothesis import Hypothesis, Token
from toolkit.decode.incremental import IncrementalSearch, join, split
from toolkit.decode.scorer import State
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel
from toolkit.models.transducer import Transducer
from toolkit.text.tokenizer import Tokenizer

CPU_BLOCK, GPU_BLOCK = 6, 16
"""Frames of a block: about as many as lie between two symbols, and more where a step costs the same for all of them."""
STEPS_A_CHECK = 4
"""Steps until the host asks again whether all utterances are at their end."""


@dataclass
class GreedyConfig:
    """Greedy search of a transducer."""

    name: str = "greedy"
    """Which search this is."""
    max_symbols: int = 10
    """Symbols on a frame at most; 1 for models whose loss has another topology than "regular"."""
    blank_penalty: float = 0.0
    """Subtracted from the blank's logit; over 0 for fewer deletions."""

    def __post_init__(self) -> None:
        if self.max_symbols < 1:
            raise ValueError(f"max_symbols must be at least 1, got {self.max_symbols}")


class GreedyState(NamedTuple):
    """What is known of an utterance."""

    predictor: State
    """One row: the predictor's output, projected, and its state."""
    tokens: tuple[Token, ...]
    """So far."""
    score: float
    """Log-probability of the path."""
    frame: int
    """Number of the next frame."""


class Greedy(IncrementalSearch):
    """The likeliest symbol or blank, again and again.

    The score of a hypothesis is the log-probability of its path. Where `max_symbols` are on a frame, the search goes on
    to the next one without the score of a blank, as in the topologies that have no blank there.

    Raises:
        UserError: the model has no transducer.
    """

    Config = GreedyConfig

    def __init__(
        self, config: GreedyConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        self.transducer = transducer_of(model, config.name)
        self.device = torch.device(device)
        self.block = CPU_BLOCK if self.device.type == "cpu" else GPU_BLOCK
        self.max_symbols = config.max_symbols if self.transducer.topology == "regular" else 1
        self.blank_penalty = config.blank_penalty

    @torch.no_grad()
    def start(self, frame: int = 0) -> GreedyState:
        """See `IncrementalSearch`."""
        output, state = self.transducer.predictor.start(1, self.device)
        return GreedyState((self.transducer.joiner.predictor_proj(output), *state), (), 0.0, frame)

    @torch.no_grad()
    def extend(self, frames: Tensor, lengths: Tensor, states: Sequence[GreedyState]) -> list[GreedyState]:
        """See `IncrementalSearch`."""
        predictor, joiner = self.transducer.predictor, self.transducer.joiner
        encoded = joiner.encoder_proj(frames)
        lengths = lengths.to(frames.device)
        output, *state = join([one.predictor for one in states])
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        ahead = torch.arange(self.block, device=frames.device)
        time, on_frame = torch.zeros_like(lengths), torch.zeros_like(lengths)
        score = torch.zeros(len(frames), device=frames.device)
        symbols, times, scores = [], [], []
        for step in count():
            if step % STEPS_A_CHECK == 0 and not (time < lengths).any():
                break
            places = time[:, None] + ahead
            logits = joiner(encoded[rows, places.clamp(max=frames.shape[1] - 1)], output[:, None]).float()
            logits[..., 0] -= self.blank_penalty
            best, ids = logits.max(dim=-1)
            best = best - logits.logsumexp(dim=-1)
            exists = places < lengths[:, None]
            first = torch.where((ids > 0) & exists, ahead, self.block).amin(dim=1)
            found = first < self.block
            at = first.clamp(max=self.block - 1)[:, None]
            symbol = ids.gather(1, at)[:, 0] * found
            score += (best * (exists & (ahead <= first[:, None]))).sum(dim=1)
            symbols.append(symbol)
            times.append(time + first)
            scores.append(best.gather(1, at)[:, 0])
            on_frame = torch.where(first > 0, 0, on_frame) + found
            full = on_frame >= self.max_symbols
            time = time + first + (found & full)
            on_frame = on_frame * (found & ~full)
            predicted, state = predictor.step(symbol, tuple(state))
            output = joiner.predictor_proj(predicted)
        found = _tokens(symbols, times, scores, [one.frame for one in states])
        parts = zip(states, split((output, *state), len(states)), found, strict=True)
        numbers = zip(score.tolist(), lengths.tolist(), strict=True)
        return [
            GreedyState(part, old.tokens + new, old.score + gained, old.frame + length)
            for (old, part, new), (gained, length) in zip(parts, numbers, strict=True)
        ]

    def hypotheses(self, state: GreedyState, final: bool = True) -> list[Hypothesis]:
        """See `IncrementalSearch`."""
        return [Hypothesis(list(state.tokens), state.score)]


def transducer_of(model: AsrModel, search: str) -> Transducer:
    """The model's transducer; UserError if it has none."""
    if model.transducer is None:
        raise UserError(
            f"{search}: found a model without a transducer, expected one trained with transducer.scale over 0"
        )
    return model.transducer


def _tokens(
    symbols: list[Tensor], times: list[Tensor], scores: list[Tensor], offsets: list[int]
) -> list[tuple[Token, ...]]:
    """The tokens of each utterance from those (B,) of each step, 0 for none."""
    if not symbols:
        return [()] * len(offsets)
    columns = [torch.stack(rows, dim=1).tolist() for rows in (symbols, times, scores)]
    return [
        tuple(
            Token(symbol, offset + time, offset + time + 1, score)
            for symbol, time, score in zip(*row, strict=True)
            if symbol
        )
        for offset, *row in zip(offsets, *columns, strict=True)
    ]

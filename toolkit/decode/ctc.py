"""CTC: the most likely path, and the time of each token of a known text.

Dimensions: B utterances, T frames, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.decode.hypothesis import Hypothesis, Token
from toolkit.decode.incremental import IncrementalSearch
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel
from toolkit.text.tokenizer import Tokenizer


@dataclass
class CtcGreedyConfig:
    """Greedy search of CTC."""

    name: str = "ctc_greedy"
    """Which search this is."""


class CtcGreedyState(NamedTuple):
    """What is known of an utterance."""

    tokens: tuple[Token, ...]
    """So far."""
    score: float
    """Log-probability of the path."""
    frame: int
    """Number of the next frame."""


class CtcGreedy(IncrementalSearch):
    """The best symbol of each frame.

    Raises:
        UserError: the model has no CTC head.
    """

    Config = CtcGreedyConfig

    def __init__(
        self, config: CtcGreedyConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        self.model = with_ctc(model, config.name)

    def start(self, frame: int = 0) -> CtcGreedyState:
        """See `IncrementalSearch`."""
        return CtcGreedyState((), 0.0, frame)

    @torch.no_grad()
    def extend(
        self, frames: Tensor, lengths: Tensor, states: Sequence[CtcGreedyState]
    ) -> list[CtcGreedyState]:
        """See `IncrementalSearch`."""
        found = greedy(self.model.ctc_log_probs(frames), lengths)
        rows = zip(states, found, lengths.tolist(), strict=True)
        return [
            CtcGreedyState(_continued(state, best.tokens), state.score + best.score, state.frame + length)
            for state, (best,), length in rows
        ]

    def hypotheses(self, state: CtcGreedyState, final: bool = True) -> list[Hypothesis]:
        """See `IncrementalSearch`."""
        return [Hypothesis(list(state.tokens), state.score)]


def with_ctc(model: AsrModel, search: str) -> AsrModel:
    """The model; UserError if it has no CTC head."""
    if model.ctc is None:
        raise UserError(
            f"{search}: found a model without a CTC head, expected one trained with ctc.scale over 0"
        )
    return model


def greedy(log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
    """The best symbol of each frame, repetitions merged and blanks (0) removed.

    Args:
        log_probs: (B, T, V).
        lengths: (B,) valid frames.

    Returns:
        B lists of one hypothesis, whose score is the log-probability of the path.
    """
    scores, ids = log_probs.max(dim=-1)
    rows = zip(ids.cpu(), scores.float().cpu(), lengths.tolist(), strict=True)
    return [
        [Hypothesis(tokens_of_path(row[:length], score[:length]), float(score[:length].sum()))]
        for row, score, length in rows
    ]


def align(log_probs: Tensor, tokens: list[int]) -> list[Token]:
    """The best path of one utterance through its known tokens (Viterbi, by torchaudio).

    Args:
        log_probs: (T, V) of one utterance, without padding.
        tokens: ids without blanks.

    Raises:
        ValueError: the tokens do not fit into the frames.
    """
    from torchaudio.functional import forced_align

    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if not tokens:
        return []
    if needed > len(log_probs):
        raise ValueError(f"{len(tokens)} tokens need {needed} frames, found {len(log_probs)}")
    path, scores = forced_align(log_probs[None].float().cpu(), torch.tensor([tokens]))
    return tokens_of_path(path[0], scores[0])


def _continued(state: CtcGreedyState, tokens: list[Token]) -> tuple[Token, ...]:
    """The tokens of an utterance with those of its next frames; a run may go on over the seam."""
    new = [Token(t.id, t.start + state.frame, t.end + state.frame, t.score) for t in tokens]
    if not (new and state.tokens):
        return (*state.tokens, *new)
    old, first = state.tokens[-1], new[0]
    if old.id != first.id or old.end != first.start:
        return (*state.tokens, *new)
    total = old.score * (old.end - old.start) + first.score * (first.end - first.start)
    joined = Token(old.id, old.start, first.end, total / (first.end - old.start))
    return (*state.tokens[:-1], joined, *new[1:])


def tokens_of_path(path: Tensor, scores: Tensor) -> list[Token]:
    """Runs of equal non-blank symbols along a path (T,)."""
    if not len(path):
        return []
    symbols, counts = torch.unique_consecutive(path, return_counts=True)
    ends = counts.cumsum(0)
    sums = torch.cat([torch.zeros(1), scores.cumsum(0)])
    return [
        Token(symbol, end - count, end, float(sums[end] - sums[end - count]) / count)
        for symbol, count, end in zip(symbols.tolist(), counts.tolist(), ends.tolist(), strict=True)
        if symbol != 0
    ]

"""CTC: the most likely path, and the time of each token of a known text.

Dimensions: B utterances, T frames, V symbols.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Token(NamedTuple):
    """A token with its time."""

    id: int
    start: float
    """Seconds."""
    end: float
    """Seconds."""
    score: float
    """Mean log-probability over its frames."""


def greedy(log_probs: Tensor, lengths: Tensor, frame_shift: float) -> list[list[Token]]:
    """The best symbol of each frame, repetitions merged and blanks (0) removed.

    Args:
        log_probs: (B, T, V).
        lengths: (B,) valid frames.
        frame_shift: seconds a frame.
    """
    scores, ids = log_probs.max(dim=-1)
    rows = zip(ids.cpu(), scores.float().cpu(), lengths.tolist(), strict=True)
    return [_tokens(row[:length], score[:length], frame_shift) for row, score, length in rows]


def align(log_probs: Tensor, tokens: list[int], frame_shift: float) -> list[Token]:
    """The best path of one utterance through its known tokens (Viterbi, by torchaudio).

    Args:
        log_probs: (T, V) of one utterance, without padding.
        tokens: ids without blanks.
        frame_shift: seconds a frame.

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
    return _tokens(path[0], scores[0], frame_shift)


def _tokens(path: Tensor, scores: Tensor, frame_shift: float) -> list[Token]:
    """Runs of equal non-blank symbols along a path (T,)."""
    if not len(path):
        return []
    symbols, counts = torch.unique_consecutive(path, return_counts=True)
    ends = counts.cumsum(0)
    sums = torch.cat([torch.zeros(1), scores.cumsum(0)])
    return [
        Token(
            symbol,
            (end - count) * frame_shift,
            end * frame_shift,
            float(sums[end] - sums[end - count]) / count,
        )
        for symbol, count, end in zip(symbols.tolist(), counts.tolist(), ends.tolist(), strict=True)
        if symbol != 0
    ]

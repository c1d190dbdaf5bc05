"""CTC: the most likely path, and the time of each token of a known text.

Dimensions: B utterances, T frames, V symbols.
"""

import torch
from torch import Tensor

from toolkit.decode.hypothesis import Hypothesis, Token


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
        [Hypothesis(_tokens(row[:length], score[:length]), float(score[:length].sum()))]
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
    return _tokens(path[0], scores[0])


def _tokens(path: Tensor, scores: Tensor) -> list[Token]:
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

"""Cases for the tests of transducer losses, and the sum over all alignments by counting them out."""

import itertools

import torch
from torch import Tensor

from toolkit.losses.transducer.config import TransducerLossConfig

TOPOLOGIES = ("regular", "modified", "constrained")

# frames, tokens: one of each, no tokens, as many tokens as frames, more, several.
SIZES = [(1, 1), (1, 0), (4, 0), (3, 3), (2, 4), (1, 3), (5, 2), (4, 1)]


def sizes() -> tuple[Tensor, Tensor]:
    """frames and token_lengths of `SIZES`, with one row more."""
    frames, token_lengths = torch.tensor(SIZES).T
    return frames, token_lengths


def sum_of_alignments(blank: Tensor, target: Tensor, inside: Tensor, config: TransducerLossConfig) -> float:
    """Negative log-likelihood of one utterance, by counting out all alignments.

    Args:
        blank: (T, S + 1) log-probabilities of leaving frame t at position s.
        target: (T, S + 1) of emitting token s on frame t.
        inside: (T, S + 1) whether that node may be visited.
        config: topology and delay penalty.
    """
    frames, tokens = blank.shape[0], blank.shape[1] - 1
    totals = [
        score(emissions, blank.tolist(), target.tolist(), inside.tolist(), config)
        for emissions in itertools.combinations_with_replacement(range(frames), tokens)
        if config.topology == "regular" or len(set(emissions)) == tokens
    ]
    return -torch.tensor([-torch.inf, *totals], dtype=torch.float64).logsumexp(0).item()


def score(
    emissions: tuple[int, ...],
    blank: list[list[float]],
    target: list[list[float]],
    inside: list[list[bool]],
    config: TransducerLossConfig,
) -> float:
    """Log-probability of the alignment that emits token s on frame emissions[s]."""
    total, position = 0.0, 0
    for frame in range(len(blank)):
        here = emissions.count(frame)
        if not all(inside[frame][s] for s in visited(position, here, config)):
            return -torch.inf
        for s in range(position, position + here):
            delay = frame - (len(blank) - 1) / 2
            total += target[frame][s] - config.delay_penalty * delay
        position += here
        if config.topology != "modified" or not here:
            total += blank[frame][position]
    return total


def visited(position: int, emitted: int, config: TransducerLossConfig) -> range:
    """The nodes of a frame on which a score of the alignment is looked up."""
    return range(position, position + emitted + (config.topology != "modified" or not emitted))


def random_scores(width: int, **options: torch.dtype) -> tuple[Tensor, Tensor]:
    """blank and target, (len(SIZES), 5, width); NaN outside of the utterances' frames."""
    frames, _ = sizes()
    shape = len(SIZES), 5, width
    outside = torch.arange(5)[:, None] >= frames[:, None, None]
    blank, target = (torch.randn(shape, dtype=torch.float64) - 1 for _ in range(2))
    return tuple(x.masked_fill(outside, torch.nan).to(**options) for x in (blank, target))

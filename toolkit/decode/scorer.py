"""What is fused into a search beside the model: language models and the like, for many hypotheses at once.

A scorer follows each hypothesis of a search by a state: a tuple of tensors whose first dimension runs over the
hypotheses, so that a search may pick, repeat and reorder them as it does with its own tensors (`select`). All tensors
stay on the scorer's device; scorers do not wait for a GPU.

Dimensions: N hypotheses, V symbols (0 is the blank).
"""

import operator
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""One row a hypothesis in each tensor."""


class Scorer(Protocol):
    """Adds to the score of a hypothesis what it knows of the next token; log-probabilities are natural logarithms."""

    def start(self, count: int) -> State:
        """The state of `count` hypotheses without tokens."""

    def scores(self, state: State) -> Tensor:
        """What each next token would add, (N, V) float32; column 0, the blank, is 0."""

    def advance(self, state: State, tokens: Tensor) -> State:
        """The state after one more token for each hypothesis, (N,) int64; 0 leaves that row as it is."""

    def final(self, state: State) -> Tensor:
        """What the end of the utterance adds, (N,) float32."""


class Sum:
    """Several scorers as one, each multiplied by its scale.

    Args:
        parts: scorers over the same symbols, with their scales.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, parts: Iterable[tuple[Scorer, float]]) -> None:
        self.parts = list(parts)
        if not self.parts:
            raise ValueError("found no scorers, expected at least one")
        self.sizes = [len(scorer.start(1)) for scorer, _ in self.parts]

    def start(self, count: int) -> State:
        """The states of all parts, one after another."""
        return _chain([scorer.start(count) for scorer, _ in self.parts])

    def scores(self, state: State) -> Tensor:
        """(N, V), the scaled sum."""
        rows = zip(self.parts, self._split(state), strict=True)
        return _add([scale * scorer.scores(own) for (scorer, scale), own in rows])

    def advance(self, state: State, tokens: Tensor) -> State:
        """Advances all parts by the same tokens (N,)."""
        rows = zip(self.parts, self._split(state), strict=True)
        return _chain([scorer.advance(own, tokens) for (scorer, _), own in rows])

    def final(self, state: State) -> Tensor:
        """(N,), the scaled sum."""
        rows = zip(self.parts, self._split(state), strict=True)
        return _add([scale * scorer.final(own) for (scorer, scale), own in rows])

    def _split(self, state: State) -> list[State]:
        parts, begin = [], 0
        for size in self.sizes:
            parts.append(state[begin : begin + size])
            begin += size
        return parts


def select(state: State, rows: Tensor) -> State:
    """The states of some hypotheses, which may be picked, repeated and reordered: rows (M,) int64, or (N,) bool."""
    return tuple(tensor[rows] for tensor in state)


def where(condition: Tensor, state: State, other: State) -> State:
    """Row by row one state or another: (N,) bool says where the first is taken."""
    pairs = zip(state, other, strict=True)
    return tuple(torch.where(condition.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)


def spread(firsts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The entries from firsts to ends (N,) of a list, for all rows: the row and the place of each entry, (entries,).

    Their number is unknown before, so that a GPU has to be waited for.
    """
    counts = ends - firsts
    rows = torch.repeat_interleave(counts)
    return rows, torch.arange(len(rows), device=rows.device) + (firsts - counts.cumsum(0) + counts)[rows]


def _chain(states: Sequence[State]) -> State:
    return tuple(tensor for state in states for tensor in state)


def _add(terms: Sequence[Tensor]) -> Tensor:
    return reduce(operator.add, terms)

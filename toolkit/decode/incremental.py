"""Searches that may be given an utterance in pieces: what they have in common, and how their states are batched.

Each utterance has a state of its own, so that any of them can be searched together at any time. Within a search the
states of a batch are joined into tensors whose first dimension runs over the hypotheses of all utterances.

Dimensions: B utterances, T frames, D encoder width, N rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.scorer import State


class IncrementalSearch(ABC):
    """A search that goes through the frames once, from the first to the last."""

    @abstractmethod
    def start(self, frame: int = 0) -> Any:
        """The state of an utterance before its first frame, which has this number."""

    @abstractmethod
    def extend(self, frames: Tensor, lengths: Tensor, states: Sequence[Any]) -> list[Any]:
        """Goes on by the next frames of some utterances.

        Args:
            frames: (B, T, D) of the encoder.
            lengths: (B,) how many of them exist, 0 or more.
            states: B states of the frames before; they stay as they are.

        Returns:
            B new states.
        """

    @abstractmethod
    def hypotheses(self, state: Any, final: bool = True) -> list[Hypothesis]:
        """The n-best list of what has been heard; `final` if nothing follows."""

    def __call__(self, frames: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """(B, T, D) frames of whole utterances and (B,) lengths to B n-best lists."""
        if not len(frames):
            return []
        return [
            self.hypotheses(state) for state in self.extend(frames, lengths, [self.start()] * len(frames))
        ]


def join(states: Sequence[State]) -> State:
    """The rows of several states, one after another.

    Tensors that grow with the number of symbols, such as caches of attention, are filled up with zeros.
    """
    return tuple(_stack(parts) for parts in zip(*states, strict=True))


def split(state: State, count: int) -> list[State]:
    """The reverse of `join` for `count` states of as many rows each."""
    if not state:
        return [()] * count
    return list(zip(*(part.chunk(count) for part in state), strict=True))


def put(state: State, rows: Tensor, new: State) -> State:
    """A state whose `rows` (M,) int64 are those of another one, (M, ...)."""
    pairs = (_alike([old, part]) for old, part in zip(state, new, strict=True))
    return tuple(old.index_copy(0, rows, part) for old, part in pairs)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(_alike(parts))


def _alike(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors filled up with zeros at the end of all dimensions but the first, to the greatest of their sizes."""
    shapes = [part.shape[1:] for part in parts]
    if all(shape == shapes[0] for shape in shapes):
        return list(parts)
    greatest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return [
        pad(part, [n for size, most in zip(shape, greatest, strict=True) for n in (most - size, 0)][::-1])
        for part, shape in zip(parts, shapes, strict=True)
    ]

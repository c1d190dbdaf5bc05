"""Rows of the joiner on a CPU: scores, and gradients while activations are in the cache or from computing them again.

A row is one cell of the lattice: a pair of an encoder frame and a symbol position. Only cells that exist become rows.

Dimensions: B batch, T frames, U symbols, R symbol positions kept of each frame, J joiner, V vocabulary, N rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

KEPT = 2**21
"""Elements of a matrix of activations that may be kept for gradients; those of more are computed again."""
STRIP = 1024
"""Rows that are multiplied at a time: enough to be fast, and few enough to stay in the cache."""


class Rows(NamedTuple):
    """Cells that exist, in the order of batch, frame and position; int64, (N,) each."""

    cell: Tensor
    """Index into the flat (B, T, R)."""
    frame: Tensor
    """Index into the flat (B, T)."""
    position: Tensor
    """Index into the flat (B, U + 1)."""
    token: Tensor
    """The next target; -1 after the last one."""

    @classmethod
    def of(cls, tokens: Tensor, ranges: Tensor, frames: Tensor, token_lengths: Tensor) -> "Rows":
        """All rows of a batch; for the arguments see `toolkit.losses.transducer.joiner.joiner_scores`."""
        _, num_frames, width = ranges.shape
        utterance, t, r = valid_cells(ranges, frames, token_lengths).nonzero(as_tuple=True)
        position = ranges[utterance, t, r]
        frame = utterance * num_frames + t
        token = torch.nn.functional.pad(tokens, (0, 1))[utterance, position]
        token = token.masked_fill(position == token_lengths[utterance], -1)
        return cls(frame * width + r, frame, utterance * (tokens.shape[1] + 1) + position, token)

    def part(self, rows: slice | Tensor) -> "Rows":
        """Some of the rows."""
        return Rows(*(field[rows] for field in self))

    def strips(self) -> Iterator["Rows"]:
        """All rows in as few equal parts as fit into STRIP."""
        return (self.part(rows) for rows in strips(len(self.cell)))


def strips(count: int) -> Iterator[slice]:
    """Cuts `count` rows into as few equal parts as fit into STRIP."""
    number = -(-count // STRIP)
    return (slice(count * i // number, count * (i + 1) // number) for i in range(number))


def valid_cells(ranges: Tensor, frames: Tensor, token_lengths: Tensor) -> Tensor:
    """Which of the cells (B, T, R) exist, as booleans."""
    t = torch.arange(ranges.shape[1], device=ranges.device)
    return (t < frames[:, None])[:, :, None] & (ranges <= token_lengths[:, None, None])


class Group(NamedTuple):
    """Utterances that stand together."""

    utterances: slice
    """Which of the batch."""
    rows: Rows
    """All that they have."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.rows.cell)


def grouped(rows: Rows, ranges: Tensor) -> list[Group]:
    """Groups of at most 2 * STRIP rows, or of one utterance that has more."""
    num_utterances, num_frames, _ = ranges.shape
    counts = torch.bincount(rows.frame // num_frames, minlength=num_utterances).tolist()
    groups, first, start, held = [], 0, 0, 0
    for utterance, count in enumerate(counts):
        held += count
        if utterance + 1 == num_utterances or held + counts[utterance + 1] > 2 * STRIP:
            groups.append(Group(slice(first, utterance + 1), rows.part(slice(start, start + held))))
            first, start, held = utterance + 1, start + held, 0
    return groups


class Gradients(NamedTuple):
    """Sums of gradients with respect to the inputs of the joiner."""

    encoder: Tensor
    predictor: Tensor
    weight: Tensor
    bias: Tensor
    """(V,), also where there is no bias."""

    @classmethod
    def zeros(cls, encoder: Tensor, predictor: Tensor, weight: Tensor) -> "Gradients":
        """Nothing added yet."""
        bias = weight.new_zeros(len(weight))
        return cls(torch.zeros_like(encoder), torch.zeros_like(predictor), torch.zeros_like(weight), bias)

    def own(self) -> "Gradients":
        """For a thread of its own: it has utterances of its own, but weight and bias are everyone's."""
        return self._replace(weight=torch.zeros_like(self.weight), bias=torch.zeros_like(self.bias))

    def add(self, others: list["Gradients"]) -> None:
        """Adds what threads have made of weight and bias."""
        for other in others:
            self.weight.add_(other.weight)
            self.bias.add_(other.bias)


class Activations:
    """Activations of some rows in buffers that the next ones overwrite.

    Args:
        encoder: (B, T, J) projected encoder frames, contiguous.
        predictor: (B, U + 1, J) projected predictor outputs, contiguous.
        weight: (V, J) of the output layer.
        bias: (V,), or None.
    """

    def __init__(self, encoder: Tensor, predictor: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.encoder, self.predictor = encoder.flatten(0, 1), predictor.flatten(0, 1)
        self.weight, self.bias = weight, bias
        self.transposed = weight.t().contiguous()
        vocabulary, width = weight.shape
        self.capacity = max(STRIP, KEPT // max(vocabulary, width))
        """Rows whose activations may be kept."""
        self.hidden = self.log_probs = self.transposed
        self._buffers = weight.new_empty(0, width), weight.new_empty(0, vocabulary)
        self._grad_hidden = weight.new_empty(STRIP, width)

    def compute(self, rows: Rows) -> None:
        """Computes `hidden` (N, J) and `log_probs` (N, V), which hold until the next call."""
        count = len(rows.cell)
        if len(self._buffers[0]) < count:
            self._buffers = tuple(buffer.new_empty(count, buffer.shape[1]) for buffer in self._buffers)
        self.hidden, self.log_probs = (buffer[:count] for buffer in self._buffers)
        _add(*_arrays(self.encoder, self.predictor, rows.frame, rows.position, self.hidden))
        self.hidden.tanh_()
        if self.bias is None:
            torch.mm(self.hidden, self.transposed, out=self.log_probs)
        else:
            torch.addmm(self.bias, self.hidden, self.transposed, out=self.log_probs)
        torch.log_softmax(self.log_probs, 1, out=self.log_probs)

    def scores(self, rows: Rows, blank: Tensor, target: Tensor) -> None:
        """Computes the rows and writes log-probabilities of blank and target to (B, T, R) each."""
        self.compute(rows)
        _pick(*_arrays(self.log_probs, rows.cell, rows.token, blank.view(-1), target.view(-1)))

    def gradients(self, rows: Rows, blank: Tensor, target: Tensor, kept: bool, sums: Gradients) -> None:
        """Adds the gradients of rows; those that `noticed` leaves out are not computed.

        Args:
            rows: N rows.
            blank, target: (B, T, R) gradients with respect to the scores.
            kept: the last call of `compute` or `scores` was for just these rows; their activations are overwritten.
            sums: what is added to.
        """
        blank = blank.view(-1)[rows.cell]
        target = target.view(-1)[rows.cell].masked_fill(rows.token < 0, 0)
        chosen = noticed(rows.frame, blank, target)
        for part in strips(len(chosen)):
            index: slice | Tensor = chosen[part]
            first, last = int(index[0]), int(index[-1])
            if last - first == len(index) - 1:  # Nothing is left out: nothing needs to be copied.
                index = slice(first, last + 1)
            strip = rows.part(index)
            if kept:
                hidden, grads = self.hidden[index], self.log_probs[index]
            else:
                self.compute(strip)
                hidden, grads = self.hidden, self.log_probs
            self._add_gradients(strip, hidden, grads, blank[index], target[index], sums)

    def _add_gradients(
        self, rows: Rows, hidden: Tensor, log_probs: Tensor, blank: Tensor, target: Tensor, sums: Gradients
    ) -> None:
        grads = log_probs.exp_().mul_((blank + target).neg_()[:, None])
        _add_picked(*_arrays(grads, rows.token, blank, target))
        sums.weight.addmm_(grads.t(), hidden)
        sums.bias.add_(grads.sum(0))
        grad_hidden = torch.mm(grads, self.weight, out=self._grad_hidden[: len(hidden)])
        encoder, predictor = sums.encoder.flatten(0, 1), sums.predictor.flatten(0, 1)
        _spread(*_arrays(grad_hidden, hidden, rows.frame, rows.position, encoder, predictor))


def noticed(frame: Tensor, blank: Tensor, target: Tensor) -> Tensor:
    """Rows (N',) of (N,) whose gradient changes anything beside the largest one of the same frame.

    A row is left out if |blank| + |target| is at most half an epsilon of the type times that of the frame's largest
    row: less than what rounding does to that one. In a trained model that is most rows.

    Args:
        frame: (N,) frame of each row; equal ones stand together.
        blank, target: (N,) gradients with respect to the scores.
    """
    half_epsilon = torch.finfo(blank.dtype).eps / 2
    return torch.from_numpy(_noticed(*_arrays(frame, blank.abs() + target.abs()), half_epsilon))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


@njit(nogil=True, cache=True)
def _add(encoder, predictor, frame, position, hidden):  # type: ignore[no-untyped-def]
    """hidden[n] = encoder[frame[n]] + predictor[position[n]]."""
    for n in range(hidden.shape[0]):
        e, p = frame[n], position[n]
        for j in range(hidden.shape[1]):
            hidden[n, j] = encoder[e, j] + predictor[p, j]


@njit(nogil=True, cache=True)
def _pick(log_probs, cell, token, blank, target):  # type: ignore[no-untyped-def]
    for n in range(log_probs.shape[0]):
        blank[cell[n]] = log_probs[n, 0]
        if token[n] >= 0:
            target[cell[n]] = log_probs[n, token[n]]


@njit(nogil=True, cache=True)
def _noticed(frame, size, share):  # type: ignore[no-untyped-def]
    chosen = np.empty(len(size), np.int64)
    count = start = 0
    while start < len(size):
        end, largest = start, size[start]
        while end < len(size) and frame[end] == frame[start]:
            largest = max(largest, size[end])
            end += 1
        for n in range(start, end):
            # Not a comparison that NaN fails: what is wrong is passed on.
            if not size[n] <= share * largest:
                chosen[count] = n
                count += 1
        start = end
    return chosen[:count]


@njit(nogil=True, cache=True)
def _add_picked(grads, token, blank, target):  # type: ignore[no-untyped-def]
    for n in range(grads.shape[0]):
        grads[n, 0] += blank[n]
        if token[n] >= 0:
            grads[n, token[n]] += target[n]


@njit(nogil=True, cache=True)
def _spread(grad_hidden, hidden, frame, position, encoder, predictor):  # type: ignore[no-untyped-def]
    """Adds the gradient with respect to encoder + predictor to both."""
    for n in range(hidden.shape[0]):
        e, p = frame[n], position[n]
        for j in range(hidden.shape[1]):
            grad = grad_hidden[n, j] * (1 - hidden[n, j] * hidden[n, j])
            encoder[e, j] += grad
            predictor[p, j] += grad

"""Sums over the alignments of a transducer on CPUs: compiled loops, utterances spread over threads.

Dimensions: B utterances, T frames, R symbol positions that are looked at on a frame. A node (t, r) of the lattice
stands for `starts[t] + r` symbols before frame t is over.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

# Below this many nodes a second thread costs more than it saves.
NODES_WORTH_A_THREAD = 20_000


def lattice(
    blank: Tensor, target: Tensor, starts: Tensor, frames: Tensor, token_lengths: Tensor, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight of all alignments of each utterance, and how often they are expected to take each arc.

    What lies outside of an utterance is never read: frames from `frames` on, positions beyond `token_lengths`, and
    `target` at the last position.

    Args:
        blank: (B, T, R) log-probability of the arc from (t, r) to the same position on frame t + 1; float32 or
            float64. Sums are float64 either way.
        target: (B, T, R) log-probability of the arc that emits the next token, to the next position.
        starts: (B, T) int64, the first position of each frame; zeros in the lattice of all alignments.
        frames: (B,) int64.
        token_lengths: (B,) int64.
        diagonal: whether emitting a token also takes a frame; else any number of them fit on a frame.

    Returns:
        total: (B,) log of the summed probabilities; -inf without an alignment.
        blank_occupancy, target_occupancy: (B, T, R) expected counts of the arcs, which are the gradients of `total`;
            0 without an alignment.
    """
    occupancies = blank.new_zeros(blank.shape), blank.new_zeros(blank.shape)
    total = blank.new_empty(len(blank))
    inputs = (blank, target, starts, frames, token_lengths)
    arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
    outputs = [tensor.numpy() for tensor in (*occupancies, total)]
    # Threads of our own: numba's do not survive a fork (OpenMP) or a second caller (its own pool).
    threads = max(1, min(torch.get_num_threads(), len(blank), blank.numel() // NODES_WORTH_A_THREAD))

    def run(first: int) -> None:
        _utterances(first, threads, diagonal, *arrays, *outputs)

    if threads == 1:
        run(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))
    return total, *occupancies


@numba.njit(nogil=True)
def _utterances(
    first: int,
    step: int,
    diagonal: bool,
    blank: np.ndarray,
    target: np.ndarray,
    starts: np.ndarray,
    frames: np.ndarray,
    token_lengths: np.ndarray,
    blank_counts: np.ndarray,
    target_counts: np.ndarray,
    total: np.ndarray,
) -> None:
    """`lattice` for every step-th utterance; the last three are filled."""
    for b in range(first, len(total), step):
        total[b] = _utterance(
            diagonal,
            blank[b],
            target[b],
            starts[b],
            frames[b],
            token_lengths[b],
            blank_counts[b],
            target_counts[b],
        )


@numba.njit(nogil=True)
def _utterance(
    diagonal: bool,
    blank: np.ndarray,
    target: np.ndarray,
    starts: np.ndarray,
    frames: int,
    tokens: int,
    blank_counts: np.ndarray,
    target_counts: np.ndarray,
) -> float:
    """Forwards: the summed weight of all ways to each node, and of all alignments."""
    width = blank.shape[1]
    # by_target[t, r]: the share of the alignments through a node that came by an emission.
    by_target = np.zeros((frames + 1, width), blank.dtype)
    previous, current, scratch = np.empty(width), np.empty(width), np.empty(width)
    # One more frame holds the final node alone.
    for t in range(frames + 1):
        start, nodes = _nodes(t, starts, frames, tokens, width)
        shift = start - starts[t - 1] if t else 0
        for r in range(nodes):
            came_from = r + shift
            if t == 0:
                current[r] = 0.0 if start + r == 0 else -np.inf
            elif 0 <= came_from < width:
                current[r] = previous[came_from] + blank[t - 1, came_from]
            else:
                current[r] = -np.inf
            if diagonal and t > 0 and 1 <= came_from <= width:
                moved = previous[came_from - 1] + target[t - 1, came_from - 1]
                current[r], by_target[t, r] = _log_add(current[r], moved)
        if not diagonal and nodes > 1:
            _emit(current[:nodes], target[t], by_target[t], scratch)
        previous, current = current, previous
    # previous[0] is the final node.
    total = previous[0]
    if total > -np.inf:
        _count(diagonal, starts, frames, tokens, by_target, blank_counts, target_counts)
    return total


@numba.njit(nogil=True)
def _emit(sums: np.ndarray, target: np.ndarray, by_target: np.ndarray, ways: np.ndarray) -> None:
    """Adds to a frame's sums, which are of the ways by blank, those from node to node on the frame.

    Adding logarithms would make each node wait for an exponential and a logarithm of the one before. So sums are taken
    relative to those by blank, which makes the wait a product and an addition, unless that overflows.
    """
    for r in range(1, len(sums)):
        ways[r] = np.exp(sums[r - 1] + target[r - 1] - sums[r])
    ways[0] = 1.0
    for r in range(1, len(sums)):
        ways[r] = 1.0 + ways[r - 1] * ways[r]
    # Once it is inf or NaN it stays so.
    if ways[len(sums) - 1] < np.inf:
        for r in range(1, len(sums)):
            by_target[r] = 1.0 - 1.0 / ways[r]
            sums[r] += np.log(ways[r])
    else:
        for r in range(1, len(sums)):
            sums[r], by_target[r] = _log_add(sums[r], sums[r - 1] + target[r - 1])


@numba.njit(nogil=True)
def _log_add(stayed: float, moved: float) -> tuple[float, float]:
    """log(exp(stayed) + exp(moved)), and the share of `moved`."""
    high, low = (moved, stayed) if moved > stayed else (stayed, moved)
    # Where both are impossible, so is the sum.
    ratio = 0.0 if low == -np.inf else np.exp(low - high)
    return high + np.log(1.0 + ratio), (1.0 if moved > stayed else ratio) / (1.0 + ratio)


@numba.njit(nogil=True)
def _nodes(t: int, starts: np.ndarray, frames: int, tokens: int, width: int) -> tuple[int, int]:
    """The first position and the number of nodes on a frame."""
    if t == frames:
        return tokens, 1
    return starts[t], min(width, tokens - starts[t] + 1)


@numba.njit(nogil=True)
def _count(
    diagonal: bool,
    starts: np.ndarray,
    frames: int,
    tokens: int,
    by_target: np.ndarray,
    blank_counts: np.ndarray,
    target_counts: np.ndarray,
) -> None:
    """Backwards: the count of a node is that of its two arcs, and is shared out among those that lead to it."""
    width = by_target.shape[1]
    for t in range(frames, -1, -1):
        start, nodes = _nodes(t, starts, frames, tokens, width)
        shift = start - starts[t - 1] if t else 0
        for r in range(nodes - 1, -1, -1):
            count = 1.0 if t == frames else blank_counts[t, r] + target_counts[t, r]
            if count == 0:
                continue
            moved = by_target[t, r]
            if moved > 0:
                if diagonal:
                    target_counts[t - 1, r + shift - 1] = count * moved
                else:
                    target_counts[t, r - 1] = count * moved
            if moved < 1 and t > 0:
                blank_counts[t - 1, r + shift] = count * (1 - moved)

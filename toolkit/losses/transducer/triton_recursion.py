"""Sums over the alignments of a transducer on GPUs: one Triton kernel forwards, one backwards, a program an utterance.

Frames follow one another; the positions of a frame are worked on together, those that lead to each other on the same
frame by a scan. From frame to frame positions move, so that numbers change threads: they go through memory.

Dimensions: B utterances, T frames, R symbol positions that are looked at on a frame. A node (t, r) of the lattice
stands for `starts[t] + r` symbols before frame t is over.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


def lattice(
    blank: Tensor, target: Tensor, starts: Tensor, frames: Tensor, token_lengths: Tensor, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `toolkit.losses.transducer.native.lattice`; nothing waits for the GPU."""
    blank, target, starts = blank.detach().contiguous(), target.detach().contiguous(), starts.contiguous()
    batch, num_frames, width = blank.shape
    total = blank.new_empty(batch)
    by_target = blank.new_empty(batch, num_frames + 1, width)
    # Sums of a frame and of the one before.
    sums = blank.new_empty(batch, 2, width, dtype=torch.float64)
    blank_counts, target_counts = torch.zeros_like(blank), torch.zeros_like(target)
    block = triton.next_power_of_2(width)
    sizes = (num_frames, width, diagonal, block)
    # Threads of one warp need not wait for each other; long frames need more.
    warps = min(8, max(1, block // 128))
    with current(blank.device):
        _sum[(batch,)](
            blank,
            target,
            starts,
            frames,
            token_lengths,
            total,
            by_target,
            sums,
            *sizes,
            blank.dtype == torch.float64,
            num_warps=warps,
        )
        _count[(batch,)](
            starts,
            frames,
            token_lengths,
            total,
            by_target,
            blank_counts,
            target_counts,
            *sizes,
            num_warps=warps,
        )
    return total, blank_counts, target_counts


def current(device: torch.device) -> AbstractContextManager:
    """Triton starts kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


# Numbers that change from batch to batch, for which kernels are not compiled again.
SIZES = ["num_frames", "width"]

# A sum of nothing: low enough to vanish beside any log-probability, and so high that sums of many stay finite.
NOTHING = tl.constexpr(-1e30)


@triton.jit
def _at_least_nothing(x):
    # Not a maximum, which would hide NaN.
    return tl.where(x < NOTHING, NOTHING, x)


@triton.jit
def _log_add(a, b):
    """log(exp(a) + exp(b)) of float64; what is added to the larger one is found in float32."""
    # NaN is in the difference, whichever of the two it is that the maximum hides.
    ratio = tl.exp(-tl.abs(a - b).to(tl.float32))
    return tl.maximum(a, b) + tl.log(1.0 + ratio)


@triton.jit
def _log_add_double(a, b):
    return tl.maximum(a, b) + tl.log(1.0 + tl.exp(-tl.abs(a - b)))


@triton.jit
def _chain(step, entry, next_step, next_entry):
    """Two stretches of positions as one: the sum of the steps over both, and what has come in by their end."""
    return step + next_step, _log_add(entry + next_step, next_entry)


@triton.jit
def _chain_double(step, entry, next_step, next_entry):
    return step + next_step, _log_add_double(entry + next_step, next_entry)


@triton.jit
def _chain_counts(share, count, next_share, next_count):
    """The same for counts, which are multiplied and added."""
    return share * next_share, count * next_share + next_count


@triton.jit(do_not_specialize=SIZES)
def _sum(
    blank,
    target,
    starts,
    frames,
    token_lengths,
    total,
    by_target,
    sums,
    num_frames,
    width,
    DIAGONAL: tl.constexpr,
    BLOCK: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Sums over the beginnings of alignments, a frame at a time; by_target (B, T + 1, R) is the share of those that
    came to a node by an emission."""
    b = tl.program_id(0).to(tl.int64)
    count = tl.load(frames + b)
    tokens = tl.load(token_lengths + b)
    blank += b * num_frames * width
    target += b * num_frames * width
    starts += b * num_frames
    by_target += b * (num_frames + 1) * width
    sums += b * 2 * width
    r = tl.arange(0, BLOCK)
    start = tl.load(starts, mask=count > 0, other=0)
    start = tl.where(count > 0, start, tokens)
    # Of the frame before, all nodes are out of reach of the first one but for the beginning.
    stayed = tl.where(start + r == 0, 0.0, NOTHING).to(tl.float64)
    moved = tl.full([BLOCK], NOTHING, tl.float64)
    t = count * 0
    while t <= count:
        # The last frame but one leads to the final node.
        following = tl.load(starts + t + 1, mask=t + 1 < count, other=0)
        following = tl.where(t + 1 < count, following, tokens)
        inside = (r < width) & (start + r <= tokens) & ((t < count) | (r == 0))
        stayed = tl.where(inside, stayed, NOTHING)
        if DIAGONAL:
            moved = tl.where(inside, moved, NOTHING)
            if DOUBLE:
                here = _log_add_double(stayed, moved)
            else:
                here = _log_add(stayed, moved)
        else:
            step = tl.load(target + t * width + r - 1, mask=inside & (r > 0) & (t < count), other=NOTHING)
            step = _at_least_nothing(step.to(tl.float64))
            if DOUBLE:
                _, here = tl.associative_scan((step, stayed), 0, _chain_double)
            else:
                _, here = tl.associative_scan((step, stayed), 0, _chain)
        here = _at_least_nothing(here)
        slot = sums + (t % 2) * width
        tl.store(slot + r, here, mask=r < width)
        tl.debug_barrier()
        if not DIAGONAL:
            moved = tl.load(slot + r - 1, mask=inside & (r > 0), other=NOTHING) + step
        share = moved - here
        if not DOUBLE:
            share = share.to(tl.float32)
        tl.store(by_target + t * width + r, tl.where(inside, tl.exp(share), 0.0), mask=r < width)
        # To the next frame.
        source = r + following - start
        reached = (source >= 0) & (source < width) & (t < count)
        before = tl.load(slot + source, mask=reached, other=NOTHING)
        arc = tl.load(blank + t * width + source, mask=reached & (start + source <= tokens), other=NOTHING)
        stayed = before + _at_least_nothing(arc.to(tl.float64))
        if DIAGONAL:
            reached = (source >= 1) & (source <= width) & (t < count)
            before = tl.load(slot + source - 1, mask=reached, other=NOTHING)
            reached = reached & (start + source <= tokens)
            arc = tl.load(target + t * width + source - 1, mask=reached, other=NOTHING)
            moved = before + _at_least_nothing(arc.to(tl.float64))
        start = following
        t += 1
    final = tl.load(sums + (count % 2) * width)
    tl.store(total + b, tl.where(final < 0.5 * NOTHING, float("-inf"), final))


@triton.jit(do_not_specialize=SIZES)
def _count(
    starts,
    frames,
    token_lengths,
    total,
    by_target,
    blank_counts,
    target_counts,
    num_frames,
    width,
    DIAGONAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Expected counts of the arcs, from the last frame to the first: a node is left as often as it is come to."""
    b = tl.program_id(0).to(tl.int64)
    last = tl.load(frames + b)
    tokens = tl.load(token_lengths + b)
    starts += b * num_frames
    by_target += b * (num_frames + 1) * width
    blank_counts += b * num_frames * width
    target_counts += b * num_frames * width
    # From right to left, so that the scan goes the way the counts do.
    r = BLOCK - 1 - tl.arange(0, BLOCK)
    # Without an alignment there is nothing to count.
    exists = tl.load(total + b) != float("-inf")
    start = tokens
    t = tl.where(exists, last, -1)
    while t >= 0:
        share = tl.load(by_target + t * width + r, mask=r < width, other=0.0)
        inside = (r < width) & (t < last)
        count = tl.load(blank_counts + t * width + r, mask=inside, other=0.0)
        if DIAGONAL:
            count += tl.load(target_counts + t * width + r, mask=inside, other=0.0)
        count += tl.where((r == 0) & (t == last), 1.0, 0.0).to(count.dtype)
        if not DIAGONAL:
            step = tl.load(by_target + t * width + r + 1, mask=inside & (r + 1 < width), other=0.0)
            _, count = tl.associative_scan((step, count), 0, _chain_counts)
        before = tl.load(starts + t - 1, mask=t > 0, other=0)
        source = r + start - before
        if DIAGONAL:
            mask = (r < width) & (t > 0) & (source >= 1) & (source <= width)
            tl.store(target_counts + (t - 1) * width + source - 1, count * share, mask=mask)
        else:
            tl.store(target_counts + t * width + r - 1, count * share, mask=inside & (r > 0))
        mask = (r < width) & (t > 0) & (source >= 0) & (source < width)
        tl.store(blank_counts + (t - 1) * width + source, count * (1 - share), mask=mask)
        tl.debug_barrier()
        start = before
        t -= 1

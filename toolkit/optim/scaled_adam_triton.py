"""ScaledAdam's two passes over all elements of all parameters as one Triton kernel each.

The kernels find parameters, gradients and moments through a table of addresses and work on them in chunks. They move
36 bytes an element of float32: the sums read p and g (8), the move reads p, g and two moments and writes p and the
moments (28, as Adam does). Clipping needs the norm of all gradients before the first element moves, so there is no way
with one pass.

Dimensions: N parameters (rows), C chunks of at most CHUNK elements.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from toolkit.optim.scaled_adam import Move

CHUNK = 4096
"""Elements that one program of a kernel works on."""
WARPS = 16
"""Of 32 threads each, that share a chunk; with 4 of them, a move would not find room for it in their registers."""
GATHERED = 256
"""Partial sums that are added up at a time."""


class Kernels:
    """The passes over float32 parameters on a GPU, as `toolkit.optim.scaled_adam.Passes` has them.

    The elements of a parameter may be in any order, but fill a stretch of memory.
    """

    def __init__(self, params: list[Tensor]) -> None:
        self.params = params
        self.exp_avg_sq = [torch.zeros_like(p) for p in params]
        self.delta = [torch.zeros_like(p) for p in params]
        device, count = params[0].device, len(params)
        sizes = torch.tensor([p.numel() for p in params])
        chunks = (sizes + CHUNK - 1) // CHUNK
        ends = chunks.cumsum(0)
        rows = torch.arange(count).repeat_interleave(chunks)
        starts = (torch.arange(len(rows)) - (ends - chunks)[rows]) * CHUNK
        self.sizes, self.rows, self.starts = sizes.to(device), rows.to(device), starts.to(device)
        self.ends = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(device)
        self.partial = torch.empty(3, len(rows), device=device)
        self.fixed = [t.data_ptr() for t in (*self.exp_avg_sq, *self.delta)]
        self.table = torch.empty(0)
        self.grads: list[Tensor] = []

    def sums(self, sizes: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `Passes`. All three sums are always there, as the parameters are read in any case."""
        self.grads = [_gradient(p) for p in self.params]
        addresses = [t.data_ptr() for t in (*self.params, *self.grads)] + self.fixed
        device, count = self.partial.device, len(self.params)
        # From pinned memory, whose reuse PyTorch holds back until the copy is done, so that nothing waits here.
        table = torch.tensor(addresses, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.table = table.to(device, non_blocking=True).view(4, count)
        sums = torch.empty(3, count, device=device)
        with _current(device):
            _sum_chunks[(len(self.rows),)](
                self.table,
                self.rows,
                self.starts,
                self.sizes,
                self.partial,
                count,
                len(self.rows),
                CHUNK,
                num_warps=WARPS,
            )
            _sum_rows[(count,)](self.partial, self.ends, sums, count, len(self.rows), GATHERED)
        return sums[0], sums[1], sums[2]

    def move(self, move: Move) -> None:
        """See `Passes`."""
        with _current(self.partial.device):
            _move_chunks[(len(self.rows),)](
                self.table,
                self.rows,
                self.starts,
                self.sizes,
                move.speed,
                move.speed if move.growth is None else move.growth,
                move.clip,
                len(self.params),
                move.beta1,
                move.beta2,
                1 - move.beta2,
                move.eps,
                move.scalar_max,
                CHUNK,
                move.growth is not None,
                move.frozen,
                num_warps=WARPS,
            )
        self.grads = []


def _gradient(p: Tensor) -> Tensor:
    """The gradient with its elements in the parameter's order."""
    if p.grad is None:
        return torch.zeros_like(p)
    return p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad)


def _current(device: torch.device) -> AbstractContextManager:
    """Triton starts kernels on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@triton.jit
def _address(table, which, count, row):
    return tl.load(table + which * count + row).to(tl.pointer_type(tl.float32))


@triton.jit
def _sum_chunks(table, rows, starts, sizes, partial, count, chunks, CHUNK: tl.constexpr):
    """Sums of g * g, p * g and p * p over one chunk to column `program` of partial (3, C)."""
    program = tl.program_id(0)
    row = tl.load(rows + program)
    start = tl.load(starts + program)
    inside = start + tl.arange(0, CHUNK) < tl.load(sizes + row)
    p = tl.load(_address(table, 0, count, row) + start + tl.arange(0, CHUNK), mask=inside, other=0.0)
    g = tl.load(_address(table, 1, count, row) + start + tl.arange(0, CHUNK), mask=inside, other=0.0)
    tl.store(partial + program, tl.sum(g * g))
    tl.store(partial + chunks + program, tl.sum(p * g))
    tl.store(partial + 2 * chunks + program, tl.sum(p * p))


@triton.jit
def _sum_rows(partial, ends, sums, count, chunks, GATHERED: tl.constexpr):
    """Adds up a parameter's chunks, always in the same order: partial (3, C) to sums (3, N)."""
    row = tl.program_id(0)
    first = tl.load(ends + row)
    last = tl.load(ends + row + 1)
    for which in tl.static_range(3):
        total = tl.zeros([GATHERED], tl.float32)
        begin = first
        while begin < last:
            index = begin + tl.arange(0, GATHERED)
            total += tl.load(partial + which * chunks + index, mask=index < last, other=0.0)
            begin += GATHERED
        tl.store(sums + which * count + row, tl.sum(total))


@triton.jit
def _move_chunks(
    table,
    rows,
    starts,
    sizes,
    speeds,
    growths,
    clip,
    count,
    beta1,
    beta2,
    rest2,
    eps,
    scalar_max,
    CHUNK: tl.constexpr,
    GROWS: tl.constexpr,
    FROZEN: tl.constexpr,
):
    """One update of one chunk; rest2 is 1 - beta2."""
    program = tl.program_id(0)
    row = tl.load(rows + program)
    size = tl.load(sizes + row)
    index = tl.load(starts + program) + tl.arange(0, CHUNK)
    inside = index < size
    p_at = _address(table, 0, count, row) + index
    g_at = _address(table, 1, count, row) + index
    v_at = _address(table, 2, count, row) + index
    delta_at = _address(table, 3, count, row) + index
    g = tl.load(g_at, mask=inside, other=0.0) * tl.load(clip)
    v = tl.load(v_at, mask=inside, other=0.0) * beta2 + rest2 * g * g
    p = tl.load(p_at, mask=inside, other=0.0)
    delta = tl.load(delta_at, mask=inside, other=0.0) * beta1
    delta += tl.load(speeds + row) * g / (tl.sqrt(v) + eps)
    if GROWS:
        delta += tl.load(growths + row) * p
    tl.store(v_at, v, mask=inside)
    tl.store(delta_at, delta, mask=inside)
    if not FROZEN:
        p += delta
        if size == 1:
            p = tl.minimum(tl.maximum(p, -scalar_max), scalar_max)
        tl.store(p_at, p, mask=inside)

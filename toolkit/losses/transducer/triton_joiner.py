"""The joiner's scores on a GPU: kernels that multiply and normalise tile by tile, so that logits stay in registers.

Rows are the cells of the lattice in their natural order, some frames at a time (a chunk). Chunks are cut without
knowing what is padding, so nothing waits for the GPU; tiles of padding, and in the backward pass those without
gradient, end at once. Gradients are added up in a fixed order, without atomic additions.

Dimensions: B batch, T frames, U symbols, R symbol positions kept of each frame, J joiner, V vocabulary, N rows of a
chunk, M rows of a tile.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from toolkit.losses.transducer.triton_recursion import current

HALF = torch.bfloat16
"""Type of products under autocast."""
CHUNK = 2**23
"""Elements of a chunk's larger matrix."""
ROWS, SYMBOLS, UNITS = 64, 128, 32
"""What a program multiplies at a time; powers of two, at least 16."""
WIDE = 128
"""Units that a program of the kernels without products works on."""
SIZES = [
    "first_frame",
    "num_rows",
    "num_frames",
    "width",
    "num_tokens",
    "first_position",
    "all_positions",
    "positions",
    "chunk_frames",
]
"""Numbers that change from batch to batch, for which kernels are not compiled again."""


def triton_joiner_scores(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """See `toolkit.losses.transducer.joiner.joiner_scores`.

    Args:
        encoder: as there, like all that follow; encoder, predictor, weight and bias contiguous in float32. In ranges,
            the positions of a frame follow each other, and those of later frames begin no earlier.
        half: multiply in bfloat16; sums are of float32 in any case.
    """
    lattice = [tensor.contiguous() for tensor in (tokens, ranges, frames, token_lengths)]
    return _Scores.apply(encoder, predictor, weight, bias, *lattice, half)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *inputs, half = arguments
        joiner = _Joiner(*inputs, half)
        blank, target = (inputs[0].new_zeros(inputs[5].shape) for _ in range(2))
        normaliser = torch.empty_like(blank)
        with current(blank.device):
            for chunk in joiner.chunks():
                joiner.scores(chunk, blank, target, normaliser)
        ctx.save_for_backward(*inputs, normaliser)
        ctx.half = half
        return blank, target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, blank: Tensor, target: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, normaliser = ctx.saved_tensors
        joiner = _Joiner(*inputs, ctx.half)
        grads = [torch.zeros_like(tensor) for tensor in inputs[:3]]
        bias = inputs[2].new_zeros(len(inputs[2]))
        with current(blank.device):
            spans = _spans(*inputs[5:7], inputs[1].shape[1])
            for chunk in joiner.chunks():
                joiner.gradients(
                    chunk, blank.contiguous(), target.contiguous(), normaliser, *grads, bias, spans
                )
        return *grads, bias if ctx.needs_input_grad[3] else None, *[None] * 5


def _spans(ranges: Tensor, frames: Tensor, positions: int) -> Tensor:
    """(2, B, U + 1) int64: first and last + 1 of the frames that look at a position."""
    t = torch.arange(ranges.shape[1], device=ranges.device)
    starts = ranges[:, :, 0].masked_fill(t >= frames[:, None], positions)
    position = torch.arange(positions, device=ranges.device).expand(len(ranges), -1).contiguous()
    first = torch.searchsorted(starts, position - (ranges.shape[2] - 1))
    return torch.stack([first, torch.searchsorted(starts, position, right=True)])


class _Chunk(NamedTuple):
    """Frames of the flat (B, T) that are worked on at a time."""

    first: int
    frames: int
    rows: int


class _Joiner:
    """Inputs, sizes, and the steps that a chunk takes."""

    def __init__(
        self,
        encoder: Tensor,
        predictor: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        ranges: Tensor,
        frames: Tensor,
        token_lengths: Tensor,
        half: bool,
    ) -> None:
        self.encoder, self.predictor = encoder, predictor
        self.dtype = HALF if half else torch.float32
        self.weight = weight.to(self.dtype)
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.lattice = tokens, ranges, frames, token_lengths
        self.num_frames, self.width = ranges.shape[1:]
        self.sizes = self.num_frames, self.width, tokens.shape[1]
        self.vocabulary, self.units = weight.shape
        # In three products of 10 bits of the numbers each, unless less will do.
        tf32 = torch.backends.cuda.matmul.allow_tf32
        self.constants = (*weight.shape[::-1], "tf32" if tf32 else "tf32x3", ROWS, SYMBOLS, UNITS)

    def chunks(self) -> Iterator[_Chunk]:
        """All frames, as many at a time as fit."""
        total = len(self.encoder) * self.num_frames
        size = max(1, CHUNK // (self.width * max(self.vocabulary, self.units)))
        for first in range(0, total, size):
            frames = min(size, total - first)
            yield _Chunk(first, frames, frames * self.width)

    def hidden(self, chunk: _Chunk) -> Tensor:
        """tanh of the sums, (N, J), zeros in padding."""
        hidden = self.encoder.new_empty(chunk.rows, self.units, dtype=self.dtype)
        grid = triton.cdiv(chunk.rows, ROWS), triton.cdiv(self.units, WIDE)
        _hidden[grid](
            self.encoder,
            self.predictor,
            *self.lattice[1:],
            hidden,
            chunk.first,
            chunk.rows,
            *self.sizes,
            self.units,
            ROWS,
            WIDE,
        )
        return hidden

    def scores(self, chunk: _Chunk, blank: Tensor, target: Tensor, normaliser: Tensor) -> None:
        """Fills in a chunk of what is (B, T, R)."""
        _normalise[(triton.cdiv(chunk.rows, ROWS),)](
            self.hidden(chunk),
            self.weight,
            self.bias,
            *self.lattice,
            blank,
            target,
            normaliser,
            chunk.first,
            chunk.rows,
            *self.sizes,
            *self.constants,
            num_warps=4,
        )

    def gradients(
        self,
        chunk: _Chunk,
        grad_blank: Tensor,
        grad_target: Tensor,
        normaliser: Tensor,
        encoder: Tensor,
        predictor: Tensor,
        weight: Tensor,
        bias: Tensor,
        spans: Tensor,
    ) -> None:
        """Adds the gradients of a chunk to those of encoder, predictor, weight and bias."""
        hidden = self.hidden(chunk)
        grads = hidden.new_empty(chunk.rows, self.vocabulary)
        _logit_gradients[(triton.cdiv(chunk.rows, ROWS), triton.cdiv(self.vocabulary, SYMBOLS))](
            hidden,
            self.weight,
            self.bias,
            *self.lattice,
            grad_blank,
            grad_target,
            normaliser,
            grads,
            chunk.first,
            chunk.rows,
            *self.sizes,
            *self.constants,
            num_warps=4,
        )
        weight.add_(_product(grads.t(), hidden))
        bias.add_(grads.sum(0, dtype=torch.float32))
        grad_hidden = _product(grads, self.weight)
        wide = triton.cdiv(self.units, WIDE)
        _frame_gradients[(chunk.frames, wide)](
            grad_hidden, hidden, encoder, chunk.first, self.width, self.units, WIDE
        )
        first = chunk.first // self.num_frames
        utterances = (chunk.first + chunk.frames - 1) // self.num_frames + 1 - first
        positions = self.predictor.shape[1]
        _position_gradients[(utterances * positions, wide)](
            grad_hidden,
            hidden,
            self.lattice[1],
            spans,
            predictor,
            first * positions,
            len(self.predictor) * positions,
            positions,
            chunk.first,
            chunk.frames,
            self.num_frames,
            self.width,
            self.units,
            WIDE,
        )


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32."""
    return torch.mm(a, b) if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


@triton.jit
def _cells(rows, ranges, frames, token_lengths, first_frame, num_rows, num_frames, width):
    """Of rows (M,) of a chunk: cell, frame, utterance, position, whether it exists, whether a target follows."""
    frame = first_frame + (rows // width).to(tl.int64)
    inside = rows < num_rows
    utterance = frame // num_frames
    cell = frame * width + rows % width
    position = tl.load(ranges + cell, mask=inside, other=0)
    length = tl.load(token_lengths + utterance, mask=inside, other=-1)
    count = tl.load(frames + utterance, mask=inside, other=0)
    exists = inside & (frame % num_frames < count) & (position <= length)
    return cell, frame, utterance, position, exists, exists & (position < length)


@triton.jit(do_not_specialize=SIZES)
def _hidden(
    encoder,
    predictor,
    ranges,
    frames,
    token_lengths,
    hidden,
    first_frame,
    num_rows,
    num_frames,
    width,
    num_tokens,
    num_units,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    units = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    cell, frame, utterance, position, exists, _ = _cells(
        rows, ranges, frames, token_lengths, first_frame, num_rows, num_frames, width
    )
    position += utterance * (num_tokens + 1)
    mask = exists[:, None] & (units < num_units)[None, :]
    x = tl.load(encoder + frame[:, None] * num_units + units[None, :], mask=mask, other=0.0)
    x += tl.load(predictor + position[:, None] * num_units + units[None, :], mask=mask, other=0.0)
    # tanh, whose exponential cannot overflow.
    small = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - small) / (1.0 + small)
    y = tl.where(x < 0, -size, size)
    inside = (rows < num_rows)[:, None] & (units < num_units)[None, :]
    at = hidden + rows[:, None] * num_units + units[None, :]
    tl.store(at, y.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def _logits(
    hidden,
    weight,
    bias,
    rows,
    symbols,
    num_rows,
    J: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """A tile (M, SYMBOLS) of logits."""
    total = tl.zeros([ROWS, SYMBOLS], tl.float32)
    for start in range(0, J, UNITS):
        units = start + tl.arange(0, UNITS)
        mask = (rows < num_rows)[:, None] & (units < J)[None, :]
        a = tl.load(hidden + rows[:, None] * J + units[None, :], mask=mask, other=0.0)
        mask = (symbols < V)[None, :] & (units < J)[:, None]
        b = tl.load(weight + symbols[None, :] * J + units[:, None], mask=mask, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total + tl.load(bias + symbols, mask=symbols < V, other=0.0)[None, :]


@triton.jit(do_not_specialize=SIZES)
def _normalise(
    hidden,
    weight,
    bias,
    tokens,
    ranges,
    frames,
    token_lengths,
    blank,
    target,
    normaliser,
    first_frame,
    num_rows,
    num_frames,
    width,
    num_tokens,
    J: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    UNITS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cell, _, utterance, position, exists, follows = _cells(
        rows, ranges, frames, token_lengths, first_frame, num_rows, num_frames, width
    )
    if tl.max(exists.to(tl.int32), 0) == 0:
        return
    token = tl.load(tokens + utterance * num_tokens + position, mask=follows, other=-1)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    of_blank = tl.zeros([ROWS], tl.float32)
    of_target = tl.zeros([ROWS], tl.float32)
    for start in range(0, V, SYMBOLS):
        symbols = start + tl.arange(0, SYMBOLS)
        logits = _logits(hidden, weight, bias, rows, symbols, num_rows, J, V, PRECISION, ROWS, SYMBOLS, UNITS)
        logits = tl.where((symbols < V)[None, :], logits, float("-inf"))
        higher = tl.maximum(largest, tl.max(logits, 1))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        largest = higher
        of_blank += tl.sum(tl.where((symbols == 0)[None, :], logits, 0.0), 1)
        of_target += tl.sum(tl.where(symbols[None, :] == token[:, None], logits, 0.0), 1)
    z = largest + tl.log(total)
    tl.store(blank + cell, of_blank - z, mask=exists)
    tl.store(target + cell, of_target - z, mask=follows)
    tl.store(normaliser + cell, z, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def _logit_gradients(
    hidden,
    weight,
    bias,
    tokens,
    ranges,
    frames,
    token_lengths,
    grad_blank,
    grad_target,
    normaliser,
    grads,
    first_frame,
    num_rows,
    num_frames,
    width,
    num_tokens,
    J: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Gradients with respect to logits, (N, V), zeros in padding."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    symbols = tl.program_id(1) * SYMBOLS + tl.arange(0, SYMBOLS)
    cell, _, utterance, position, exists, follows = _cells(
        rows, ranges, frames, token_lengths, first_frame, num_rows, num_frames, width
    )
    token = tl.load(tokens + utterance * num_tokens + position, mask=follows, other=-1)
    of_blank = tl.load(grad_blank + cell, mask=exists, other=0.0)
    of_target = tl.load(grad_target + cell, mask=follows, other=0.0)
    z = tl.load(normaliser + cell, mask=exists, other=0.0)
    mask = (rows < num_rows)[:, None] & (symbols < V)[None, :]
    at = grads + rows[:, None] * V + symbols[None, :]
    moves = exists & ((of_blank != 0) | (of_target != 0))
    if tl.max(moves.to(tl.int32), 0) == 0:
        tl.store(at, tl.zeros([ROWS, SYMBOLS], grads.dtype.element_ty), mask=mask)
        return
    logits = _logits(hidden, weight, bias, rows, symbols, num_rows, J, V, PRECISION, ROWS, SYMBOLS, UNITS)
    x = -(of_blank + of_target)[:, None] * tl.exp(logits - z[:, None])
    x += tl.where((symbols == 0)[None, :], of_blank[:, None], 0.0)
    x += tl.where(symbols[None, :] == token[:, None], of_target[:, None], 0.0)
    x = tl.where(moves[:, None], x, 0.0)
    tl.store(at, x.to(grads.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _frame_gradients(grad_hidden, hidden, encoder, first_frame, width, num_units, WIDE: tl.constexpr):
    """The sum over a frame's rows; each frame is in one chunk."""
    frame = tl.program_id(0).to(tl.int64)
    units = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    mask = units < num_units
    total = tl.zeros([WIDE], tl.float32)
    r = frame * 0
    while r < width:
        at = (frame * width + r) * num_units + units
        h = tl.load(hidden + at, mask=mask, other=0.0).to(tl.float32)
        total += tl.load(grad_hidden + at, mask=mask, other=0.0) * (1.0 - h * h)
        r += 1
    at = (first_frame + frame) * num_units + units
    tl.store(encoder + at, total, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def _position_gradients(
    grad_hidden,
    hidden,
    ranges,
    spans,
    predictor,
    first_position,
    all_positions,
    positions,
    first_frame,
    chunk_frames,
    num_frames,
    width,
    num_units,
    WIDE: tl.constexpr,
):
    """The sum over the rows of a chunk that look at a position, added to that of other chunks."""
    flat = first_position + tl.program_id(0).to(tl.int64)
    utterance = flat // positions
    position = flat % positions
    units = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    mask = units < num_units
    # Frames of the chunk, counted from its first one.
    offset = utterance * num_frames - first_frame
    first = tl.maximum(tl.load(spans + flat) + offset, 0)
    last = tl.minimum(tl.load(spans + all_positions + flat) + offset, chunk_frames)
    total = tl.zeros([WIDE], tl.float32)
    frame = first
    while frame < last:
        r = position - tl.load(ranges + (first_frame + frame) * width)
        looks = mask & (r >= 0) & (r < width)
        at = (frame * width + r) * num_units + units
        h = tl.load(hidden + at, mask=looks, other=0.0).to(tl.float32)
        total += tl.load(grad_hidden + at, mask=looks, other=0.0) * (1.0 - h * h)
        frame += 1
    at = predictor + flat * num_units + units
    tl.store(at, tl.load(at, mask=mask, other=0.0) + total, mask=mask)

"""Which frames are hidden from the encoder.

The choice depends on each utterance's own seed and length alone: it is the same whatever shares the batch, on any
device and with any number of ranks.

Dimensions: B utterances, T frames, K spans, N hidden frames, M masks an utterance.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from toolkit.nn.masks import valid_mask


@dataclass
class MaskConfig:
    """Which frames are hidden: spans, or blocks that hide the same share of every utterance."""

    kind: Literal["static", "uniform", "normal", "poisson", "block"] = "static"
    """Spans of `span` frames; of lengths drawn evenly from `other` to 2 * `span`; from a normal distribution of mean
    `span` and deviation `other`; from a Poisson distribution of mean `span`; or blocks (data2vec 2.0)."""
    prob: float = 0.65
    """Share of frames that the spans would cover if none overlapped; of blocks, the share that is hidden. 0 hides
    nothing."""
    span: int = 10
    """Frames of a span or block; shorter utterances stay as they are."""
    other: float = 0.0
    """The second parameter of the lengths: least frames, up to 2 * `span` (uniform), or deviation in frames, up to
    10 * `span` (normal)."""
    min_spans: int = 2
    """Least number of spans in an utterance, as far as they fit; not for blocks."""
    no_overlap: bool = False
    """Whether spans keep apart."""
    min_space: int = 1
    """Least frames between spans that keep apart."""
    inverse: bool = False
    """Whether blocks are what stays visible."""
    adjust: float = 0.0
    """Share of frames, drawn in blocks on top of `prob`, that makes up for their overlap."""

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob must be in [0, 1], got {self.prob}")
        if self.span < 1 or self.min_spans < 0 or self.min_space < 0:
            raise ValueError(
                "span must be positive, min_spans and min_space not negative, got "
                f"{self.span}, {self.min_spans} and {self.min_space}"
            )
        if not 0 <= self.other < math.inf or (self.kind == "uniform" and self.other > 2 * self.span):
            raise ValueError(f"other must not be negative, nor above 2 * span if uniform, got {self.other}")
        # A table of all lengths is made.
        if self.kind == "normal" and self.other > 10 * self.span:
            raise ValueError(f"other must not be above 10 * span if normal, got {self.other}")
        if self.kind == "block" and self.no_overlap:
            raise ValueError("no_overlap is for spans, not for kind: block")
        if self.kind != "block" and (self.inverse or self.adjust):
            raise ValueError(f"inverse and adjust are for kind: block, not for {self.kind}")
        if not 0 <= self.adjust <= 1:
            raise ValueError(f"adjust must be in [0, 1], got {self.adjust}")


def draw_mask(config: MaskConfig, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
    """Hides frames at random.

    Spans (wav2vec 2.0, HuBERT): their number is prob * length / span, rounded up or down by chance so that its mean is
    exact. Their starts are drawn without replacement from those at which the shortest of them fits; what reaches beyond
    the end is cut off. Spans that keep apart are drawn evenly from all ways to lay them out, uncut; those for which
    there is no room are left out. Every span has a frame at least.

    Blocks (data2vec 2.0): centres are drawn with replacement; then single frames, drawn at random, are added or taken
    away until floor(prob * length) frames are hidden or, if inverse, floor((1 - prob) * length) visible.

    Args:
        config: kind and sizes.
        lengths: (B,) valid frames.
        frames: T.
        seeds: (B,) int64; for M masks an utterance, `split(seeds, M).flatten()` with the lengths repeated M times.

    Returns:
        (B, T) bool, True where hidden.
    """
    draw = _blocks if config.kind == "block" else _spans
    wanted = (lengths >= config.span) & (config.prob > 0)
    return draw(config, lengths, frames, seeds) & valid_mask(lengths, frames) & wanted[:, None]


def most_hidden(config: MaskConfig, frames: int) -> int:
    """A bound on the frames that `draw_mask` hides of an utterance of up to so many frames, known without a look."""
    if config.kind == "block":
        # One for the share's own rounding if inverse, and one for rounding errors.
        return min(frames, int(config.prob * frames) + 2)
    return min(
        frames,
        _most_spans(config, frames) * max(config.span, _longest(config.kind, config.span, config.other)),
    )


def _spans(config: MaskConfig, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
    draws = uniform(seeds, 1 + frames)
    most = _most_spans(config, frames)
    index = torch.arange(most, device=lengths.device)
    wanted = (config.prob * lengths / config.span + draws[:, 0]).floor().clamp(min=config.min_spans)
    chosen = index < wanted[:, None]
    sizes = _sizes(config, seeds, most)
    if config.no_overlap:
        # Where the spans would end if they stood at the beginning, as close as they may.
        packed = sizes.cumsum(dim=1) + index * config.min_space
        chosen &= packed <= lengths[:, None]
        # As many frames before each span as there are unpicked places before the picked one.
        room = lengths - torch.where(chosen, packed, 0).amax(dim=1) + chosen.sum(dim=1)
        places = torch.where(chosen, _pick(draws[:, 1:], room, most), frames).sort(dim=1).values
        starts = places - index + packed - sizes
    else:
        room = lengths - torch.where(chosen, sizes, frames).amin(dim=1) + 1
        chosen &= index < room[:, None]
        starts = _pick(draws[:, 1:], room, most)
    return _cover(starts, torch.where(chosen, starts + sizes, 0), frames)


def _blocks(config: MaskConfig, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
    share = 1 - config.prob if config.inverse else config.prob
    density = (share + config.adjust) / config.span
    most = int(density * frames) + 1
    chosen = torch.arange(most, device=lengths.device) < (density * lengths).floor()[:, None]
    centres = (uniform(split(seeds, 1)[:, 0], most) * lengths[:, None]).long()
    starts = centres - config.span // 2
    covered = _cover(starts.clamp(min=0), torch.where(chosen, starts + config.span, 0), frames)
    order = torch.where(valid_mask(lengths, frames), uniform(seeds, frames) + ~covered, 3.0)
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < (share * lengths).floor()[:, None]) ^ config.inverse


def _pick(draws: Tensor, room: Tensor, count: int) -> Tensor:
    """The first `count` of the places 0 to room - 1 in a random order, (B, count); then come places beyond."""
    # Equal draws go by position, so that padding cannot swap them.
    order = torch.where(valid_mask(room, draws.shape[1]), draws, 2.0)
    return order.argsort(dim=1, stable=True)[:, :count]


def _cover(starts: Tensor, ends: Tensor, frames: int) -> Tensor:
    """(B, T) bool, True from a start (B, K) to before its end (B, K); an end of 0 is none."""
    reach = torch.zeros(len(starts), frames, dtype=torch.int64, device=starts.device)
    reach = reach.scatter_reduce(1, starts.clamp(max=frames - 1), ends, "amax")
    return reach.cummax(dim=1).values > torch.arange(frames, device=starts.device)


def _most_spans(config: MaskConfig, frames: int) -> int:
    # One for chance and one for rounding errors.
    return min(frames, max(config.min_spans, int(config.prob * frames / config.span) + 2))


def _sizes(config: MaskConfig, seeds: Tensor, count: int) -> Tensor:
    """(B, count) int64 lengths of spans."""
    if config.kind == "static":
        return torch.full((len(seeds), count), config.span, device=seeds.device)
    table = _table_on(seeds.device, config.kind, config.span, config.other)
    return torch.searchsorted(table, uniform(split(seeds, 1)[:, 0], count), right=True) + 1


@functools.cache
def _length_table(kind: str, span: int, other: float) -> tuple[float, ...]:
    """P(length <= k) for k = 1, 2, ..., in which a random number is looked up: the same lengths on every device."""
    table: list[float] = []
    while not table or table[-1] < 1 - 2**-25:
        table.append(_cumulative(kind, span, other, len(table) + 1))
    return (*table[:-1], 1.0)


def _cumulative(kind: str, span: int, other: float, length: int) -> float:
    """P(length of a span <= length)."""
    if kind == "uniform":
        least = round(other)
        return min(1.0, max(0.0, (length - least + 1) / (2 * span - least + 1)))
    if kind == "normal":
        distance = length + 0.5 - span
        return 0.5 * (1 + math.erf(distance / other / 2**0.5)) if other else float(distance > 0)
    return sum(math.exp(k * math.log(span) - span - math.lgamma(k + 1)) for k in range(length + 1))


@functools.cache
def _copied_table(device: torch.device, kind: str, span: int, other: float) -> Tensor:
    # Copied once: every copy to a GPU would make the CPU wait.
    return torch.tensor(_length_table(kind, span, other), device=device)


@torch.compiler.assume_constant_result
def _table_on(device: torch.device, kind: str, span: int, other: float) -> Tensor:
    # Not the cached function itself, which the compiler would trace, and then copy the table every time.
    return _copied_table(device, kind, span, other)


@torch.compiler.assume_constant_result
def _longest(kind: str, span: int, other: float) -> int:
    return len(_length_table(kind, span, other))


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Random numbers in [0, 1), a row a seed.

    Args:
        seeds: (B,) int64.
        count: N, numbers a row; the first ones do not depend on it.

    Returns:
        (B, N) float32, equal on every device.
    """
    return _shift(split(seeds, count), 40).float() / 2**24


def split(seeds: Tensor, count: int) -> Tensor:
    """Further seeds, to draw several things for an utterance, or several times (splitmix64, Steele et al. 2014).

    Args:
        seeds: (B,) int64.
        count: N, seeds a row; the first ones do not depend on it.

    Returns:
        (B, N) int64, a hash of seed and column.
    """
    # Multiplications wrap around as in unsigned arithmetic; the constants are those of splitmix64 as signed numbers.
    x = seeds[:, None] + torch.arange(1, count + 1, device=seeds.device) * -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: zeros come in, whatever the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)

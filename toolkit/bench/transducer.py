"""Transducer losses with their joiner, forward and backward, beside other programs: time, and memory above the inputs.

Dimensions: B batch, T frames, U symbols, J joiner, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.bench.measure import Remote, Stopwatch, current, peak_flops
from toolkit.errors import UserError
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.full import full_loss
from toolkit.losses.transducer.joiner_tiles import valid_cells
from toolkit.losses.transducer.pruned import pruned_loss, pruned_loss_of_logits
from toolkit.losses.transducer.pruning import pruning_ranges
from toolkit.losses.transducer.recursion import lattice_loss
from toolkit.losses.transducer.simple import simple_loss

VOCABULARY, JOINER = 500, 512
FRAMES, TOKENS = 25, 3.4
"""Of a second."""
BATCH, MAX_FRAMES = 30, 10_000
"""Utterances of the batch that is not sorted; frames with padding of the one that is."""
CONFIG = TransducerLossConfig()


@dataclass
class Inputs:
    """What a loss gets; of those that it does not use, it makes no gradients."""

    encoder: Tensor
    """(B, T, J)."""
    predictor: Tensor
    """(B, U + 1, J)."""
    am: Tensor
    """(B, T, V) logits of the simple loss."""
    lm: Tensor
    """(B, U + 1, V)."""
    weight: Tensor
    """(V, J)."""
    bias: Tensor
    """(V,)."""
    tokens: Tensor
    """(B, U)."""
    frames: Tensor
    """(B,)."""
    token_lengths: Tensor
    """(B,)."""

    @classmethod
    def random(cls, shape: str, device: str) -> "Inputs":
        """The same for everyone, as those of an untrained model."""
        frames, token_lengths = SHAPES[shape]()
        batch, num_frames, positions = len(frames), int(frames.max()), int(token_lengths.max()) + 1
        generator = torch.Generator().manual_seed(1)
        sizes = [(batch, num_frames, JOINER), (batch, positions, JOINER)]
        sizes += [(batch, num_frames, VOCABULARY), (batch, positions, VOCABULARY)]
        sizes += [(VOCABULARY, JOINER), (VOCABULARY,)]
        leaves = [torch.randn(size, generator=generator) for size in sizes]
        leaves[4] /= JOINER**0.5
        tokens = torch.randint(1, VOCABULARY, (batch, positions - 1), generator=generator)
        tokens[torch.arange(positions - 1) >= token_lengths[:, None]] = 0
        fixed = (tensor.to(device) for tensor in (tokens, frames, token_lengths))
        return cls(*(leaf.to(device).requires_grad_() for leaf in leaves), *fixed)

    @property
    def joined(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What makes the joiner's logits."""
        return self.encoder, self.predictor, self.weight, self.bias

    def boundary(self) -> Tensor:
        """(B, 4): where an utterance begins and ends in symbols and frames, as k2 wants it."""
        zeros = torch.zeros_like(self.frames)
        return torch.stack([zeros, zeros, self.token_lengths, self.frames], dim=1)


def durations() -> Tensor:
    """Seconds of 3,000 utterances, much as in the 100 hours of LibriSpeech: 1.5 to 24.5, most of them 12 to 16.5."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(3000, generator=generator)
    share = torch.rand(3000, generator=generator)
    usual, short, long = 12 + 4.5 * share, 1.5 + 10.5 * share, 16.5 + 8 * share
    return torch.where(kinds < 0.7, usual, torch.where(kinds < 0.98, short, long))


def _lengths(seconds: Tensor) -> tuple[Tensor, Tensor]:
    return (FRAMES * seconds).long(), (TOKENS * seconds).long()


def _sorted() -> tuple[Tensor, Tensor]:
    """A batch from the middle."""
    seconds = durations().sort().values[1500:]
    fits = torch.arange(1, len(seconds) + 1) * (FRAMES * seconds).long() <= MAX_FRAMES
    return _lengths(seconds[fits])


SHAPES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "small": lambda: (torch.full((8,), 250), torch.full((8,), 40)),
    "unsorted": lambda: _lengths(durations()[:BATCH]),
    "sorted": _sorted,
}
"""Frames and symbols of each utterance of a batch."""


def toolkit_pruned(inputs: Inputs) -> Tensor:
    """Ours: simple and pruned loss."""
    lengths = inputs.frames, inputs.token_lengths
    simple = simple_loss(inputs.am, inputs.lm, inputs.tokens, *lengths, CONFIG)
    occupancies = simple.symbol_occupancy, simple.blank_occupancy
    ranges = pruning_ranges(*occupancies, *lengths, CONFIG.prune_range, CONFIG.topology)
    pruned = pruned_loss(*inputs.joined, inputs.tokens, ranges, *lengths, CONFIG)
    return 0.5 * simple.loss.sum() + pruned.sum()


def pytorch_pruned(inputs: Inputs) -> Tensor:
    """The same, but for the joiner, which is left to PyTorch with all its logits."""
    lengths = inputs.frames, inputs.token_lengths
    simple = simple_loss(inputs.am, inputs.lm, inputs.tokens, *lengths, CONFIG)
    occupancies = simple.symbol_occupancy, simple.blank_occupancy
    ranges = pruning_ranges(*occupancies, *lengths, CONFIG.prune_range, CONFIG.topology)
    rows = torch.arange(len(ranges), device=ranges.device)[:, None, None]
    hidden = torch.tanh(inputs.encoder[:, :, None] + inputs.predictor[rows, ranges])
    logits = functional.linear(hidden, inputs.weight, inputs.bias)
    pruned = pruned_loss_of_logits(logits, inputs.tokens, ranges, *lengths, CONFIG)
    return 0.5 * simple.loss.sum() + pruned.sum()


def k2_pruned(package: str, inputs: Inputs) -> Tensor:
    """The same in k2, or in fast_rnnt, which has the same functions."""
    k2, boundary = import_module(package), inputs.boundary()
    simple, (px_grad, py_grad) = k2.rnnt_loss_smoothed(
        lm=inputs.lm,
        am=inputs.am,
        symbols=inputs.tokens,
        termination_symbol=0,
        lm_only_scale=CONFIG.lm_scale,
        am_only_scale=CONFIG.am_scale,
        boundary=boundary,
        reduction="sum",
        return_grad=True,
    )
    ranges = k2.get_rnnt_prune_ranges(px_grad, py_grad, boundary, CONFIG.prune_range)
    encoder, predictor = k2.do_rnnt_pruning(inputs.encoder, inputs.predictor, ranges)
    logits = functional.linear(torch.tanh(encoder + predictor), inputs.weight, inputs.bias)
    pruned = k2.rnnt_loss_pruned(logits, inputs.tokens, ranges, 0, boundary, reduction="sum")
    return 0.5 * simple + pruned


def toolkit_full(inputs: Inputs) -> Tensor:
    """Ours: the exact loss."""
    lattice = inputs.tokens, inputs.frames, inputs.token_lengths
    return full_loss(*inputs.joined, *lattice, CONFIG).sum()


def k2_full(package: str, inputs: Inputs) -> Tensor:
    """The same in k2 or fast_rnnt."""
    logits = _all_logits(inputs)
    return import_module(package).rnnt_loss(logits, inputs.tokens, 0, inputs.boundary(), reduction="sum")


def torchaudio_full(inputs: Inputs) -> Tensor:
    """The same in torchaudio."""
    from torchaudio.functional import rnnt_loss

    lattice = (tensor.int() for tensor in (inputs.tokens, inputs.frames, inputs.token_lengths))
    return rnnt_loss(_all_logits(inputs), *lattice, blank=0, reduction="sum")


def _all_logits(inputs: Inputs) -> Tensor:
    hidden = torch.tanh(inputs.encoder[:, :, None] + inputs.predictor[:, None])
    return functional.linear(hidden, inputs.weight, inputs.bias)


def toolkit_recursion(inputs: Inputs) -> Tensor:
    """Ours: the sum over all alignments alone, of the numbers that begin `am`."""
    scores = inputs.am[:, :, : inputs.lm.shape[1]]
    starts = torch.zeros_like(inputs.am[:, :, 0], dtype=torch.int64)
    lengths = inputs.frames, inputs.token_lengths
    return lattice_loss(scores, scores, starts, *lengths, CONFIG).loss.sum()


def k2_recursion(package: str, inputs: Inputs) -> Tensor:
    """The same in k2 or fast_rnnt, whose layout it gets."""
    k2 = import_module(package)
    blank = inputs.am[:, :, : inputs.lm.shape[1]].mT
    t = torch.arange(blank.shape[2] + 1, device=blank.device)
    ended = t >= inputs.frames[:, None, None]
    target = functional.pad(blank[:, :-1], (0, 1)).masked_fill(ended, -torch.inf)
    return -k2.mutual_information_recursion(target, blank.contiguous(), inputs.boundary()).sum()


Loss = Callable[[Inputs], Tensor]
LOSSES: dict[str, dict[str, Loss]] = {
    "pruned": {
        "toolkit": toolkit_pruned,
        "fast_rnnt": partial(k2_pruned, "fast_rnnt"),
        "k2": partial(k2_pruned, "k2"),
        "pytorch": pytorch_pruned,
    },
    "full": {
        "toolkit": toolkit_full,
        "fast_rnnt": partial(k2_full, "fast_rnnt"),
        "k2": partial(k2_full, "k2"),
        "torchaudio": torchaudio_full,
    },
    "recursion": {
        "toolkit": toolkit_recursion,
        "fast_rnnt": partial(k2_recursion, "fast_rnnt"),
        "k2": partial(k2_recursion, "k2"),
    },
}
"""What is computed -> program -> the sum of the losses of a batch."""
MODULES = {"pytorch": "torch"}
"""Modules of programs that are not called like them."""
PEERS = ["fast_rnnt", "k2", "torchaudio", "pytorch"]
"""All that can be measured beside the toolkit, where they are installed."""


class LossStep:
    """A loss and its gradients."""

    def __init__(self, loss: str, program: str, shape: str, device: str) -> None:
        self.inputs = Inputs.random(shape, device)
        self.loss = LOSSES[loss][program]
        self.seconds = float(self.inputs.frames.sum()) / FRAMES
        self.num_parameters = self.inputs.weight.numel() + self.inputs.bias.numel()

    def step(self, watch: Stopwatch) -> None:
        loss = self.loss(self.inputs)
        watch.done("forward")
        loss.backward()
        watch.done("backward")
        for value in vars(self.inputs).values():
            value.grad = None


def least_flops(loss: str, shape: str) -> int:
    """Operations of the joiner's three matrix products over the cells that exist: no way of computing has fewer."""
    frames, token_lengths = SHAPES[shape]()
    if loss == "recursion":
        return 0
    positions = int(token_lengths.max()) + 1
    ranges = torch.arange(positions).expand(len(frames), int(frames.max()), positions)
    cells = valid_cells(ranges, frames, token_lengths).sum(2)
    if loss == "pruned":
        cells = cells.clamp(max=CONFIG.prune_range)
    return 3 * 2 * int(cells.sum()) * VOCABULARY * JOINER


def find_peers(names: list[str] | None) -> list[str]:
    """Programs to compare with: those that are named, or all that are installed.

    Raises:
        UserError: one is unknown or not installed.
    """
    found = [name for name in PEERS if find_spec(MODULES.get(name, name)) is not None]
    for name in names or []:
        if name not in PEERS:
            raise UserError(f"--peers: found {name!r}, expected one of: {', '.join(PEERS)}")
        if name not in found:
            raise UserError(f"--peers: {name} is not installed, expected one of: {', '.join(found)}")
    return found if names is None else list(dict.fromkeys(names))


def compare(
    losses: list[str], shapes: list[str], peers: list[str], device: str, steps: int, threads: int
) -> list[dict[str, Any]]:
    """Measures a step of each program in turn, for each loss and shape.

    Args:
        losses: of `LOSSES`.
        shapes: of `SHAPES`.
        peers: of `PEERS`; those that have no such loss are left out.
        device: cpu or cuda, perhaps with a number.
        steps: that are timed, after two to warm up.
        threads: CPU threads.

    Returns:
        A row for each: loss, shape, program, seconds (median) and bytes above the inputs, time over that of
        `least_flops` at the speed of a large matrix product, time and memory as multiples of the first peer's.
    """
    torch.set_num_threads(threads)
    peak = peak_flops(current(device), torch.float32)
    rows = []
    for loss in losses:
        programs = ["toolkit", *(peer for peer in peers if peer in LOSSES[loss])]
        for shape in shapes:
            rows += _measure(loss, shape, programs, device, steps, threads, peak)
    return rows


def _measure(
    loss: str, shape: str, programs: list[str], device: str, steps: int, threads: int, peak: float
) -> list[dict[str, Any]]:
    remotes = [
        Remote(program, partial(LossStep, loss, program, shape, device), device, threads, above_inputs=True)
        for program in programs
    ]
    times: list[list[dict[str, float]]] = [[] for _ in remotes]
    for _ in range(steps):
        for remote, parts in zip(remotes, times, strict=True):
            parts.append(remote.step())
    least = least_flops(loss, shape) / peak
    rows = []
    for remote, parts in zip(remotes, times, strict=True):
        step = median(sum(part.values()) for part in parts)
        rows.append(
            {
                "loss": loss,
                "shape": shape,
                "system": remote.name,
                **{name: median(part[name] for part in parts) for name in parts[0]},
                "step": step,
                "above_inputs": remote.finish()["memory"],
                "floor_ratio": step / least if least else None,
            }
        )
    peer = rows[min(1, len(rows) - 1)]
    for row in rows:
        row["step_ratio"] = row["step"] / peer["step"]
        row["memory_ratio"] = row["above_inputs"] / peer["above_inputs"]
    return rows

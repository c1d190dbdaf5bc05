"""The sum over the alignments of a lattice, differentiable: one function for CPUs, GPUs and all topologies.

Dimensions: B utterances, T frames, R symbol positions that are looked at on a frame.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from toolkit.errors import UserError
from toolkit.losses.transducer.config import TransducerLossConfig


class LatticeLoss(NamedTuple):
    """Losses, and how often the alignments are expected to take each arc."""

    loss: Tensor
    """(B,) negative log-likelihoods."""
    blank_occupancy: Tensor
    """(B, T, R), without gradient."""
    target_occupancy: Tensor
    """(B, T, R), without gradient."""


def lattice_loss(
    blank: Tensor,
    target: Tensor,
    starts: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> LatticeLoss:
    """Negative log-likelihood of all alignments through the given positions of each frame.

    On frame t an alignment is at position s = starts[t] + r: s tokens have been emitted. It begins at position 0 of
    frame 0 and ends once it has left the last frame with all tokens emitted. A blank leads to the next frame. A token
    leads to the next position: on the same frame ("regular") or the next one ("modified", "constrained"). In
    "constrained", the blank behind the token on the same frame counts as well.

    Args:
        blank: (B, T, R) log-probabilities; what lies outside of an utterance may hold anything.
        target: (B, T, R) log-probabilities of the next token; anything at the last position.
        starts: (B, T) int64, the first position of each frame.
        frames: (B,) int64.
        token_lengths: (B,) int64.
        config: topology, delay penalty and backend; "k2" counts as "auto" here.

    Returns:
        Losses in float64 for float64, else in float32. Without an alignment the loss is inf and its gradient 0.
    """
    blank, target = full_precision(blank), full_precision(target)
    if config.delay_penalty:
        delay = torch.arange(target.shape[1], device=target.device) - (frames[:, None] - 1) / 2
        target = target - config.delay_penalty * delay[:, :, None].to(target.dtype)
    if config.topology == "constrained":
        target = target + torch.nn.functional.pad(blank[..., 1:], (0, 1), value=-torch.inf)
    diagonal = config.topology != "regular"
    engine = _engine(config.backend, blank.device)
    total, *occupancies = _Lattice.apply(blank, target, starts, frames, token_lengths, diagonal, engine)
    return LatticeLoss(-total, *occupancies)


def full_precision(x: Tensor) -> Tensor:
    """As float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def _engine(backend: str, device: torch.device) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The function `lattice` of the backend's module."""
    devices = {"native": ["cpu"], "triton": ["cuda"]}.get(backend, ["cpu", "cuda"])
    if device.type not in devices:
        expected = " or ".join(devices)
        raise UserError(
            f"transducer loss, backend {backend!r}: found tensors on {device.type}, expected {expected}"
        )
    if device.type == "cpu":
        from toolkit.losses.transducer import native

        return native.lattice
    try:
        from toolkit.losses.transducer import triton_recursion
    except ModuleNotFoundError as error:
        raise UserError(f"transducer loss on a GPU: {error}; expected the package triton") from error
    return triton_recursion.lattice


class _Lattice(torch.autograd.Function):
    """Its gradients are the occupancies, which are found along with the sums."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *lattice, engine = arguments
        total, *occupancies = engine(*lattice)
        ctx.save_for_backward(*occupancies)
        ctx.mark_non_differentiable(*occupancies)
        return total, *occupancies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        blank, target = (gradient[:, None, None] * occupancy for occupancy in ctx.saved_tensors)
        return blank, target, *[None] * 5

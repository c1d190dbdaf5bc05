"""The same losses computed by k2, which must be installed. It refuses batches with an empty transcript.

Dimensions: B utterances, T frames, U tokens, V symbols, J joiner width, R positions that are looked at on a frame.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from toolkit.errors import UserError
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.recursion import full_precision


def k2() -> ModuleType:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import k2 as package
    except ImportError as error:
        raise UserError(f"backend 'k2': found no usable k2 ({error}), expected 1.24 or later") from error
    return package


def simple_loss(
    am: Tensor,
    lm: Tensor,
    tokens: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """`toolkit.losses.transducer.simple.simple_loss`: (B,), and (B, T, U + 1) of tokens and of blanks."""
    with torch.autocast(am.device.type, enabled=False):
        loss, (of_symbols, of_blanks) = k2().rnnt_loss_smoothed(
            lm=full_precision(lm),
            am=full_precision(am),
            lm_only_scale=config.lm_scale,
            am_only_scale=config.am_scale,
            return_grad=True,
            **_shared(tokens, frames, token_lengths, config),
        )
    # k2 has time last, on "regular" with a frame more, and scales both in place in its backward pass: hence copies.
    of_symbols = functional.pad(of_symbols[:, :, : am.shape[1]].mT, (0, 1))
    return loss, of_symbols, of_blanks.mT.contiguous()


def pruned_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> Tensor:
    """`toolkit.losses.transducer.pruned.pruned_loss`; stores logits (B, T, R, V)."""
    encoder, predictor = k2().do_rnnt_pruning(am=encoder, lm=predictor, ranges=ranges)
    logits = functional.linear(torch.tanh(encoder + predictor), weight, bias)
    return pruned_loss_of_logits(logits, tokens, ranges, frames, token_lengths, config)


def pruned_loss_of_logits(
    logits: Tensor,
    tokens: Tensor,
    ranges: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    config: TransducerLossConfig,
) -> Tensor:
    """`toolkit.losses.transducer.pruned.pruned_loss_of_logits`."""
    with torch.autocast(logits.device.type, enabled=False):
        return k2().rnnt_loss_pruned(
            logits=full_precision(logits), ranges=ranges, **_shared(tokens, frames, token_lengths, config)
        )


def _shared(
    tokens: Tensor, frames: Tensor, token_lengths: Tensor, config: TransducerLossConfig
) -> dict[str, Any]:
    """What all of k2's losses are told."""
    nothing = torch.zeros_like(frames)
    return {
        "symbols": tokens,
        "termination_symbol": 0,
        "boundary": torch.stack([nothing, nothing, token_lengths, frames], dim=1),
        "rnnt_type": config.topology,
        "delay_penalty": config.delay_penalty,
        "reduction": "none",
    }

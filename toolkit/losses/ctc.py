"""Connectionist temporal classification (Graves et al. 2006).

Dimensions: B utterances, T frames, V symbols, U tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional


def ctc_loss(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each utterance's tokens, blank = 0.

    On a GPU this waits for what was computed before: PyTorch plans its kernels from lengths on the CPU, and copies them
    there.

    Args:
        log_probs: (B, T, V) log-probabilities.
        lengths: (B,) valid frames.
        tokens: (B, U) ids, padded with 0; U is at least 1.
        token_lengths: (B,).

    Returns:
        loss: (B,) float32, 0 where the tokens do not fit into the frames.
        fits: (B,) bool, whether they do: frames >= tokens + repetitions.
    """
    fits = lengths >= needed_frames(tokens, token_lengths)
    loss = functional.ctc_loss(
        log_probs.float().transpose(0, 1),
        tokens,
        lengths,
        token_lengths,
        reduction="none",
        zero_infinity=True,
    )
    return torch.where(fits, loss, 0.0), fits


def needed_frames(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(B,): the fewest frames that CTC can say the tokens in: one for each, and a blank between two of a kind."""
    inside = torch.arange(1, tokens.shape[1], device=tokens.device) < token_lengths[:, None]
    return token_lengths + ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(dim=1)

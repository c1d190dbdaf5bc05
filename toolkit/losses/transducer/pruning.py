"""Which symbol positions the pruned transducer loss looks at (Kuang et al. 2022, arXiv 2206.13236, section 3.2).

Dimensions: B utterances, T frames, U tokens, R positions that are looked at on a frame.
"""

import torch
from torch import Tensor


def pruning_ranges(
    symbol_occupancy: Tensor,
    blank_occupancy: Tensor,
    frames: Tensor,
    token_lengths: Tensor,
    width: int,
    topology: str,
) -> Tensor:
    """The R adjacent positions of each frame that keep most of the alignments' weight.

    The first position begins at 0, never falls, and rises slowly enough that a path through the ranges exists. The
    last frame's range holds the end of the transcript, unless there are too many tokens to get there: more than
    (R - 1) * frames in the topology "regular", more than frames in the others. The loss of these is inf.

    Args:
        symbol_occupancy: (B, T, U + 1) expected counts of the arcs that emit a token.
        blank_occupancy: (B, T, U + 1) those of blanks.
        frames: (B,) valid frames.
        token_lengths: (B,) valid tokens.
        width: R; what is over U + 1 counts as U + 1.
        topology: "regular", "modified" or "constrained".

    Returns:
        (B, T, R) int64 positions; on padding they are those of the last frame or beyond.
    """
    num_frames, positions = blank_occupancy.shape[1:]
    width = min(width, positions)
    choices = positions - width + 1
    # What is at a position of the range when the frame ends, less what came to its first position on this frame:
    # the summed weight of the alignments that spend the whole frame in the range.
    # Near ties are common and are decided by rounding: time comes last because it does so in k2.
    inside = blank_occupancy.mT.contiguous().unfold(1, width, 1).sum(dim=3)
    entering = torch.nn.functional.pad(symbol_occupancy[:, :, : choices - 1], (1, 0)).mT
    starts = (inside - entering).argmax(dim=1)
    time = torch.arange(num_frames, device=frames.device)
    last = (token_lengths - width + 1).clamp(min=0)
    starts = torch.where(time < frames[:, None] - 1, starts, last[:, None])
    # Lowered until nothing falls; then raised until no step is too long: range to range, or token to token.
    step = width - 1 if topology == "regular" else 1
    starts = _never_falling(starts)
    starts = step * time - _never_falling(step * time - starts).clamp(min=0)
    return starts[:, :, None] + torch.arange(width, device=frames.device)


def _never_falling(x: Tensor) -> Tensor:
    """The largest sequence below (B, T) that never falls."""
    return x.flip(1).cummin(dim=1).values.flip(1)

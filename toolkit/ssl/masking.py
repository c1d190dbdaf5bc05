"""Which frames are hidden from the encoder.

The choice depends on each utterance's own seed and length alone: it is the same whatever shares the batch, on any
device and with any number of ranks.
"""

import torch
from torch import Tensor

from toolkit.nn.masks import valid_mask


def span_mask(
    lengths: Tensor, frames: int, prob: float, span: int, seeds: Tensor, min_spans: int = 1
) -> Tensor:
    """Hides spans of fixed length that may overlap (HuBERT, wav2vec 2.0: "static").

    The number of spans is prob * length / span, rounded up or down by chance so that its mean is exact; their starts
    are drawn without replacement.

    Args:
        lengths: (B,) valid frames.
        frames: T.
        prob: share of frames that spans would cover if none overlapped.
        span: frames of a span; utterances that are shorter stay unmasked.
        seeds: (B,) int64.
        min_spans: least number of spans in an utterance.

    Returns:
        (B, T) bool, True where hidden.
    """
    draws = uniform(seeds, 1 + frames)
    order = torch.where(valid_mask(lengths - span + 1, frames), draws[:, 1:], 2.0)
    # Equal draws go by position, so that padding cannot swap them.
    rank = order.argsort(dim=1, stable=True).argsort(dim=1)
    wanted = (prob * lengths / span + draws[:, 0]).floor().clamp(min=min_spans)
    count = torch.minimum(wanted, (lengths - span + 1).clamp(min=0))
    starts = torch.nn.functional.pad((rank < count[:, None]).int(), (span - 1, 0))
    covered = starts.unfold(1, span, 1).amax(dim=2) > 0
    return covered & valid_mask(lengths, frames)


def uniform(seeds: Tensor, count: int) -> Tensor:
    """Random numbers in [0, 1), a row a seed, from a hash of seed and column (splitmix64, Steele et al. 2014).

    Args:
        seeds: (B,) int64.
        count: N, numbers a row.

    Returns:
        (B, N) float32, equal on every device.
    """
    # Multiplications wrap around as in unsigned arithmetic; the constants are those of splitmix64 as signed numbers.
    x = seeds[:, None] + torch.arange(1, count + 1, device=seeds.device) * -7046029254386353131
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).float() / 2**24


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: zeros come in, whatever the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)

"""Powerset classes for diarization: each set of speakers who talk at once is one class.

Source: Plaquet and Bredin 2023, "Powerset multi-class cross entropy loss for neural speaker diarization".

Dimensions: B chunks, T frames, K local speakers, C classes, P = K! orders of the speakers.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Powerset(nn.Module):
    """The classes of at most `max_simultaneous` out of `num_speakers` speakers, by size and then in order.

    For 3 speakers, at most 2 at a time: none, 0, 1, 2, 01, 02, 12.

    A module without weights, so that its tables lie on the device of the model that it belongs to.

    Attributes:
        num_speakers: K.
        max_simultaneous: the largest set that has a class of its own.
        num_classes: C.
        members: (C, K) float32, 1 where the speaker belongs to the class.
    """

    members: Tensor
    _orders: Tensor
    _permuted: Tensor

    def __init__(self, num_speakers: int, max_simultaneous: int) -> None:
        super().__init__()
        if not 1 <= max_simultaneous <= num_speakers <= 4:
            raise ValueError(
                "expected 1 <= max_simultaneous <= num_speakers <= 4 (the loss tries every order), "
                f"got num_speakers={num_speakers}, max_simultaneous={max_simultaneous}"
            )
        self.num_speakers = num_speakers
        self.max_simultaneous = max_simultaneous
        sizes = range(max_simultaneous + 1)
        sets = [c for n in sizes for c in itertools.combinations(range(num_speakers), n)]
        self.num_classes = len(sets)
        members = torch.tensor([[float(k in c) for k in range(num_speakers)] for c in sets])
        orders = torch.tensor(list(itertools.permutations(range(num_speakers))))
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("_orders", orders, persistent=False)
        # (P, C): the class that a class becomes when speaker order[k] takes place k.
        permuted = torch.stack([self.to_classes(members[:, order]) for order in orders])
        self.register_buffer("_permuted", permuted, persistent=False)

    def to_classes(self, activity: Tensor) -> Tensor:
        """Speaker activities to classes.

        Where more speakers are active than a class can hold, the first ones in speaker order are kept. Put
        the speakers who talk most first to lose least.

        Args:
            activity: (..., K), nonzero where a speaker talks.

        Returns:
            (...) int64 class indices.
        """
        active = activity != 0
        active = active & (active.cumsum(-1) <= self.max_simultaneous)
        # The size of the set less its Hamming distance to the class: largest where the distance is 0.
        return (2 * active.to(self.members.dtype) @ self.members.T - self.members.sum(-1)).argmax(-1)

    def to_activity(self, classes: Tensor) -> Tensor:
        """Class indices (...) to speaker activities (..., K), float32 in {0, 1}."""
        return self.members[classes]

    def marginals(self, log_probs: Tensor) -> Tensor:
        """Class log probabilities (..., C) to the probability of each speaker being active, (..., K)."""
        return log_probs.exp() @ self.members.to(log_probs.dtype)

    def loss(self, log_probs: Tensor, activity: Tensor, mask: Tensor) -> "PowersetLoss":
        """Negative log likelihood under the speaker order that suits each chunk best, in float32 under autocast too.

        The likelihood of a chunk depends on frames only through the sum of log probabilities over the frames
        of each target class. That (C, C) table is built once; an order of the speakers then picks one column
        a row.

        Args:
            log_probs: (B, T, C).
            activity: (B, T, K) reference, nonzero where a speaker talks; speakers in any order.
            mask: (B, T) bool, true on the frames that count.
        """
        target = nn.functional.one_hot(self.to_classes(activity), self.num_classes) * mask[..., None]
        # Autocast would round the product, a sum over hundreds of frames, to half precision.
        with torch.autocast(log_probs.device.type, enabled=False):
            # (B, target C, predicted C)
            table = target.float().transpose(1, 2) @ log_probs.float().masked_fill(~mask[..., None], 0.0)
        rows = torch.arange(self.num_classes, device=log_probs.device)
        nll = -table[:, rows, self._permuted].sum(-1)  # (B, P)
        best, index = nll.min(1)
        return PowersetLoss(best.sum(), self._orders[index])


class PowersetLoss(NamedTuple):
    """The summed loss, and the order that was found: output k matches reference speaker order[b, k]."""

    loss_sum: Tensor
    order: Tensor  # (B, K) int64

"""Numbers that change in the course of training, such as a dropout that fades out."""

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor


class Scheduled:
    """A piecewise linear function of the update number (ScheduledFloat in icefall's Zipformer).

    >>> dropout = Scheduled((0, 0.3), (20000, 0.1))
    >>> dropout(10000), dropout(50000)
    (0.2, 0.1)

    Args:
        points: (update, value), at least one, by rising update; constant before the first and after the last.
    """

    def __init__(self, *points: tuple[float, float]) -> None:
        self.updates = [update for update, _ in points]
        self.values = [value for _, value in points]
        if not points or self.updates != sorted(set(self.updates)):
            raise ValueError(f"points must be by rising update, got {points}")

    def __call__(self, update: float) -> float:
        """The value at an update."""
        return interpolate(self.updates, self.values, update)


class Clocked:
    """A module that goes by the number of updates done; see `TaskModel.set_update`."""

    update: int = 0
    """Updates done."""
    clock: Tensor = torch.zeros((), dtype=torch.float64)
    """The same, on the CPU, for compiled code: for another number it would be made anew."""
    updates_scale: float = 1.0
    """Updates that schedules count for one; more than 1 where batches are larger than those they were made for."""

    @property
    def time(self) -> int | Tensor:
        """Updates done, as a number or, in compiled code, a tensor."""
        return self.clock if torch.compiler.is_compiling() else self.update

    def now(self, value: float | Scheduled) -> float:
        """What a number that may be scheduled is at present."""
        return value(self.update * self.updates_scale) if isinstance(value, Scheduled) else value


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The piecewise linear function through (xs, ys) at x, constant outside."""
    after = bisect_right(xs, x)
    if after == 0 or after == len(xs):
        return ys[0] if after == 0 else ys[-1]
    share = (x - xs[after - 1]) / (xs[after] - xs[after - 1])
    return ys[after - 1] + share * (ys[after] - ys[after - 1])

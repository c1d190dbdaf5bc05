"""Learning-rate schedules: pure functions of the update number, so there is no state to save.

Each is a dataclass with `factor(update, max_updates, epoch)`: what the learning rate is multiplied by at an update that
begins in an epoch, both counted from 0.
"""

import math
from dataclasses import dataclass


def _check(warmup_updates: int, final: float = 0.0) -> None:
    if warmup_updates < 0 or not 0 <= final <= 1:
        raise ValueError(
            f"warmup_updates must not be negative and final in [0, 1], got {warmup_updates} and {final}"
        )


def _ramp(update: int, warmup: int) -> float:
    return min(1.0, (update + 1) / warmup) if warmup else 1.0


@dataclass
class LinearSchedule:
    """Up to the full rate, then straight down to a final factor (HuBERT, wav2vec 2.0)."""

    name: str = "linear"
    """Which schedule this is."""
    warmup_updates: int = 0
    """Updates from zero to the full rate."""
    final: float = 0.0
    """Factor at the last update."""

    def __post_init__(self) -> None:
        _check(self.warmup_updates, self.final)

    def factor(self, update: int, max_updates: int, epoch: int = 0) -> float:
        """The factor at `update`."""
        progress = (update - self.warmup_updates) / max(1, max_updates - self.warmup_updates)
        return _ramp(update, self.warmup_updates) * (1 - (1 - self.final) * min(1.0, max(0.0, progress)))


@dataclass
class CosineSchedule:
    """Up to the full rate, then down along half a cosine (SGDR, arXiv 1608.03983)."""

    name: str = "cosine"
    """Which schedule this is."""
    warmup_updates: int = 0
    """Updates from zero to the full rate."""
    final: float = 0.0
    """Factor at the last update."""

    def __post_init__(self) -> None:
        _check(self.warmup_updates, self.final)

    def factor(self, update: int, max_updates: int, epoch: int = 0) -> float:
        """The factor at `update`."""
        progress = min(
            1.0, max(0.0, (update - self.warmup_updates) / max(1, max_updates - self.warmup_updates))
        )
        half = 0.5 * (1 + math.cos(math.pi * progress))
        return _ramp(update, self.warmup_updates) * (self.final + (1 - self.final) * half)


@dataclass
class TriStageSchedule:
    """Up, hold, then exponentially down (SpecAugment, arXiv 1904.08779; wav2vec 2.0 fine-tuning)."""

    name: str = "tri_stage"
    """Which schedule this is."""
    warmup: float = 0.1
    """Share of all updates that ramp up."""
    hold: float = 0.4
    """Share of all updates at the full rate."""
    final: float = 0.05
    """Factor at the last update."""

    def __post_init__(self) -> None:
        if min(self.warmup, self.hold) < 0 or self.warmup + self.hold > 1 or not 0 < self.final <= 1:
            raise ValueError(
                "warmup and hold must not be negative, their sum at most 1 and final in (0, 1], "
                f"got {self.warmup}, {self.hold} and {self.final}"
            )

    def factor(self, update: int, max_updates: int, epoch: int = 0) -> float:
        """The factor at `update`."""
        up, down = self.warmup * max_updates, (self.warmup + self.hold) * max_updates
        if update < up:
            return (update + 1) / (up + 1)
        return self.final ** min(1.0, max(0.0, (update - down) / max(1.0, max_updates - down)))


@dataclass
class InverseSqrtSchedule:
    """Up to the full rate, then with the inverse square root of the update (Vaswani et al. 2017, section 5.3)."""

    name: str = "inverse_sqrt"
    """Which schedule this is."""
    warmup_updates: int = 1000
    """Updates from zero to the full rate."""

    def __post_init__(self) -> None:
        _check(self.warmup_updates)

    def factor(self, update: int, max_updates: int, epoch: int = 0) -> float:
        """The factor at `update`."""
        return min(
            (update + 1) / max(1, self.warmup_updates), math.sqrt(max(1, self.warmup_updates) / (update + 1))
        )


@dataclass
class ConstantSchedule:
    """Up to the full rate, then no change."""

    name: str = "constant"
    """Which schedule this is."""
    warmup_updates: int = 0
    """Updates from zero to the full rate."""

    def __post_init__(self) -> None:
        _check(self.warmup_updates)

    def factor(self, update: int, max_updates: int, epoch: int = 0) -> float:
        """The factor at `update`."""
        return _ramp(update, self.warmup_updates)


@dataclass
class EdenSchedule:
    """Down with the inverse square root of both update and epoch (icefall's Eden, for ScaledAdam)."""

    name: str = "eden"
    """Which schedule this is."""
    lr_updates: float = 7500.0
    """Updates from which the rate falls with them."""
    lr_epochs: float = 10.5
    """Epochs from which the rate falls with them."""
    warmup_updates: int = 500
    """Updates from the first rate to the full one."""
    warmup_start: float = 0.5
    """Factor at the first update."""
    updates_per_epoch: float = 0.0
    """Updates that count as one epoch, such as those that some hours of data take; 0 for epochs of the data."""

    def __post_init__(self) -> None:
        _check(self.warmup_updates)
        if not 0 <= self.warmup_start <= 1:
            raise ValueError(f"warmup_start must be in [0, 1], got {self.warmup_start}")
        if not self.lr_updates > 0 or not self.lr_epochs > 0 or not self.updates_per_epoch >= 0:
            raise ValueError(
                "lr_updates and lr_epochs must be positive and updates_per_epoch not negative, got "
                f"{self.lr_updates}, {self.lr_epochs} and {self.updates_per_epoch}"
            )

    def factor(self, update: int, max_updates: int, epoch: float = 0) -> float:
        """The factor at `update`."""
        if self.updates_per_epoch:
            epoch = update / self.updates_per_epoch
        falls = ((update / self.lr_updates) ** 2 + 1) * ((epoch / self.lr_epochs) ** 2 + 1)
        ramp = min(1.0, update / self.warmup_updates) if self.warmup_updates else 1.0
        return falls**-0.25 * (self.warmup_start + (1 - self.warmup_start) * ramp)


for _schedule in (
    LinearSchedule,
    CosineSchedule,
    TriStageSchedule,
    InverseSqrtSchedule,
    EdenSchedule,
    ConstantSchedule,
):
    _schedule.Config = _schedule  # A schedule is its own configuration.

SCHEDULES = {
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
    "tri_stage": TriStageSchedule,
    "inverse_sqrt": InverseSqrtSchedule,
    "eden": EdenSchedule,
    "constant": ConstantSchedule,
}

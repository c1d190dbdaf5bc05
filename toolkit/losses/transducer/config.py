"""What transducer losses can be told."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class TransducerLossConfig:
    """Which alignments there are, and how they are summed up."""

    topology: Literal["regular", "modified", "constrained"] = "regular"
    """Symbols on a frame: any number ("regular") or at most one ("modified"); "constrained" lets a symbol be scored
    with the blank that follows it."""
    prune_range: int = 5
    """Symbols on each frame that the pruned loss looks at."""
    lm_scale: float = 0.25
    """How much the simple loss is smoothed towards the symbols alone."""
    am_scale: float = 0.0
    """How much the simple loss is smoothed towards the frames alone."""
    delay_penalty: float = 0.0
    """What a frame of delay of a symbol costs, in log-probability."""
    backend: Literal["auto", "native", "triton", "k2"] = "auto"
    """Who computes: "native" on CPUs, "triton" on GPUs, "k2" if it is installed; "auto" takes the first that fits."""

    def __post_init__(self) -> None:
        if self.prune_range < 2:
            raise ValueError(f"prune_range must be at least 2, got {self.prune_range}")
        for name in ("lm_scale", "am_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

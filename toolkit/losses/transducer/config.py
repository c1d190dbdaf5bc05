"""What transducer losses can be told."""

from dataclasses import dataclass
from typing import Literal, get_args

Topology = Literal["regular", "modified", "constrained"]
Backend = Literal["auto", "native", "triton", "k2"]


@dataclass
class TransducerLossConfig:
    """Which alignments there are, and how they are summed up."""

    topology: Topology = "regular"
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
    backend: Backend = "auto"
    """Who computes: "native" on CPUs, "triton" on GPUs, "auto" whichever of the two fits; "k2" must be installed."""

    def __post_init__(self) -> None:
        for name, choices in (("topology", get_args(Topology)), ("backend", get_args(Backend))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.prune_range < 2:
            raise ValueError(f"prune_range must be at least 2, got {self.prune_range}")
        for name in ("lm_scale", "am_scale", "delay_penalty"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.lm_scale + self.am_scale > 1:
            raise ValueError(f"lm_scale + am_scale must be at most 1, got {self.lm_scale + self.am_scale}")

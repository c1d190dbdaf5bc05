"""What the train loop can be told."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class TrainConfig:
    """The train loop. An update is one step of the optimiser, over all ranks and accumulated batches."""

    max_updates: int = 1000
    """Updates in all."""
    accumulation: int = 1
    """Batches on each rank that make one update."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; weights and updates stay fp32."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm; 0 for no limit."""
    average_decay: float = 0.0
    """Decay of the running average of the weights that is validated and exported; 0 for no averaging."""
    freeze_updates: int = 0
    """Updates during which the pretrained encoder is held still."""
    valid_every: int = 0
    """Updates between two validations; 0 validates at the end only."""
    log_every: int = 50
    """Updates between two lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Updates between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, at least 2."""
    scan_batches: int = 0
    """Batches that are looked through for the largest before training, which is then tried for memory; 0 for none."""
    threads: int = 0
    """CPU threads of each process; 0 leaves the choice to PyTorch."""
    deterministic: bool = False
    """On GPUs, the same bits from the same run, at a cost of speed and memory; not for kernels that PyTorch warns of,
    such as the gradient of CTC. CPUs always give the same bits."""
    compile: bool = False
    """Compile the model with torch.compile."""

    def __post_init__(self) -> None:
        for name in ("max_updates", "accumulation", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("clip_norm", "freeze_updates", "valid_every", "scan_batches", "threads"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.keep_checkpoints < 2:
            raise ValueError(f"keep_checkpoints must be at least 2, got {self.keep_checkpoints}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), got {self.average_decay}")

"""From a configuration and a model to an optimiser."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from toolkit.config import choice
from toolkit.optim.scaled_adam import ScaledAdam
from toolkit.optim.schedule import SCHEDULES


@dataclass
class AdamWConfig:
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    name: str = "adamw"
    """Which optimiser this is."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of the two moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """For matrices and kernels; biases, norms and single vectors are not decayed."""

    def __post_init__(self) -> None:
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        if not self.eps > 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"eps must be positive and weight_decay not negative, got {self.eps} and {self.weight_decay}"
            )


class AdamW(torch.optim.AdamW):
    """torch's AdamW with its fused kernel, built from a configuration."""

    Config = AdamWConfig

    def __init__(self, groups: list[dict], config: AdamWConfig, lr: float) -> None:
        decayed = []
        for group in groups:
            for decay, rows in ((config.weight_decay, lambda p: p.ndim >= 2), (0.0, lambda p: p.ndim < 2)):
                params = [p for p in group["params"] if rows(p)]
                if params:
                    decayed.append({**group, "params": params, "weight_decay": decay})
        super().__init__(decayed, lr=lr, betas=tuple(config.betas), eps=config.eps, fused=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state, whatever the order in memory of its moments."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                # The fused kernel on CPUs takes elements as they lie in memory; that on GPUs refuses another order.
                state[name] = torch.empty_like(parameter).copy_(state[name])


OPTIMIZERS = {"adamw": AdamW, "scaled_adam": ScaledAdam}


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    lr: float = 1e-3
    """Highest learning rate."""
    optimizer: Any = choice(OPTIMIZERS, "adamw")
    """What makes updates of gradients."""
    schedule: Any = choice(SCHEDULES, "linear")
    """How the learning rate moves over the updates."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    lr_factor: Callable[[str], float],
    is_pretrained: Callable[[str], bool],
) -> torch.optim.Optimizer:
    """Groups the trainable parameters by learning rate and builds the optimiser.

    Args:
        model: whose parameters are to be trained.
        config: optimiser and schedule.
        lr_factor: parameter name -> what its learning rate is multiplied by.
        is_pretrained: parameter name -> whether it is held still while `train.freeze_updates` last.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((lr_factor(name), is_pretrained(name)), []).append(parameter)
    rows = [
        {"params": rows, "lr_factor": key[0], "pretrained": key[1]} for key, rows in sorted(groups.items())
    ]
    return OPTIMIZERS[config.optimizer.name](rows, config.optimizer, config.lr)


def set_learning_rate(groups: Iterable[dict], lr: float, frozen: bool) -> None:
    """Sets every group's learning rate to `lr` times its factor; pretrained groups get 0 while `frozen`."""
    for group in groups:
        group["lr"] = 0.0 if frozen and group["pretrained"] else lr * group["lr_factor"]

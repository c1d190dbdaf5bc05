"""All that a run needs to go on exactly where it stopped, and its way to disk and back.

Random numbers need no state: every batch seeds the generators from its position in the data (see `Trainer`), and
learning rates are functions of the update number.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import checkpoint
from toolkit.config import differences
from toolkit.errors import UserError


@dataclass
class State:
    """Where a run stands."""

    model: nn.Module
    """The weights that are trained."""
    optimizer: torch.optim.Optimizer
    """With its moments."""
    average: nn.Module | None
    """Running average of the weights, or None."""
    scaler: torch.amp.GradScaler
    """Loss scale of fp16; switched off otherwise."""
    update: int = 0
    """Updates done."""
    position: tuple[int, int, int] = (0, 0, 0)
    """A batch of the last update in the stream: epoch, index in it, total."""
    consumed: int = 0
    """Batches of the stream that updates were made of, over all ranks."""
    elapsed: float = 0.0
    """Seconds of training, over all starts."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration."""

    @property
    def best_weights(self) -> nn.Module:
        """The averaged model where there is one, else the trained one: what is validated and exported."""
        return self.model if self.average is None else self.average

    def save(self, folder: Path, keep: int) -> None:
        """Writes a checkpoint, then removes all but the newest `keep`."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            tensors.update({f"average.{name}": tensor for name, tensor in self.average.state_dict().items()})
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in moments.items()})
        meta = {
            "update": self.update,
            "position": list(self.position),
            "consumed": self.consumed,
            "elapsed": self.elapsed,
            "scaler": self.scaler.state_dict(),
            "config": self.config,
            "torch": torch.__version__,
        }
        checkpoint.save(checkpoint.step_path(folder, self.update), tensors, meta)
        checkpoint.prune(folder, keep)

    def restore(self, path: Path, may_change: Callable[[str], bool]) -> list[str]:
        """Takes over a checkpoint.

        Args:
            path: the checkpoint.
            may_change: tells for a dotted configuration key whether a run may go on with another value.

        Returns:
            The settings that are others now, with both values.

        Raises:
            UserError: damaged, from another model, or from a run with other settings.
        """
        tensors, meta = checkpoint.load(path)
        if "config" not in meta:
            raise UserError(f"{path}: holds no state of training, expected a checkpoint of this experiment")
        changed = {
            key: f"{key} was {old!r}, is {new!r}"
            for key, (old, new) in differences(meta["config"], self.config).items()
        }
        refused = [text for key, text in changed.items() if not may_change(key)]
        if refused:
            raise UserError(
                f"{path}: this experiment was started with other settings ({'; '.join(refused[:3])}); expected the "
                "same, another --exp, or --restart to begin anew"
            )
        if self.average is not None:
            checkpoint.load_weights(self.average, _part(tensors, "average."), path)
        # After the average, which has parameters in common with it.
        checkpoint.load_weights(self.model, _part(tensors, "model."), path)
        self._restore_optimizer(_part(tensors, "optimizer."))
        if meta["scaler"]:  # Empty if the run was not in fp16 until now: then the loss scale starts afresh.
            self.scaler.load_state_dict(meta["scaler"])
        self.update, self.elapsed = meta["update"], meta["elapsed"]
        self.position, self.consumed = tuple(meta["position"]), meta["consumed"]
        return list(changed.values())

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def make_average(model: nn.Module) -> nn.Module:
    """A copy of the model to hold the running average of its weights.

    Parameters that the optimiser does not move, such as a teacher's, are no copies but the model's own.
    """
    own = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, own).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, update: int) -> None:
    """Moves the average towards the model; the decay grows from 0.1 to its value so that the start is forgotten."""
    decay = min(decay, (1 + update) / (10 + update))
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    means, weights = zip(*((mean, p.detach()) for mean, p in pairs if p.requires_grad), strict=True)
    torch._foreach_lerp_(means, weights, 1 - decay)
    for mean, buffer in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(buffer)

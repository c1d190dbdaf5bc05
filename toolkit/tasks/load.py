"""From a model directory to a model."""

from pathlib import Path
from typing import Any

import torch

from toolkit import checkpoint, config
from toolkit.errors import UserError
from toolkit.models.base import SpeechModel, TaskModel
from toolkit.tasks import task_class
from toolkit.tasks.base import Task


def load_task(folder: str | Path) -> Task:
    """The task of a model directory, as its config.yaml describes it.

    Raises:
        UserError: not a model directory.
    """
    folder = Path(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: not a model directory, expected config.yaml and model.safetensors in it")
    raw = config.read_yaml(path)
    cls = task_class(raw.get("task", ""), str(path))
    settings: Any = config.build(cls.Config, raw, str(path))
    return cls(settings, folder, settings.seed)


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> SpeechModel:
    """The model of a model directory, in eval mode.

    Raises:
        UserError: not a model directory, its weights are damaged or of another model, or it is a language model, which
            `load_task_and_model` loads.
    """
    task, model = load_task_and_model(folder, device)
    if not isinstance(model, SpeechModel):
        raise UserError(
            f"{folder}: found a model of the task {task.config.task!r}, expected one that hears speech"
        )
    return model


def load_task_and_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Task, TaskModel]:
    """Both at once, for commands that need the task's tokenizer or names as well."""
    task = load_task(folder)
    model = task.build_model()
    path = Path(folder) / "model.safetensors"
    checkpoint.load_weights(model, checkpoint.load(path)[0], path)
    model.config = task.config
    return task, model.to(device).eval()


def save_model(folder: str | Path, model: torch.nn.Module, settings: Any) -> None:
    """Writes config.yaml and model.safetensors; the weights last, so that their presence means a whole directory."""
    folder = Path(folder)
    config.save(settings, folder / "config.yaml")
    checkpoint.save(folder / "model.safetensors", model.state_dict())

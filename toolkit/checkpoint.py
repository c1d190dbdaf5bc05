"""Atomic checkpoints: tensors and their JSON metadata in one safetensors file. Knows nothing of training."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.files import atomic_write

PATTERN = re.compile(r"step-(\d+)\.safetensors")


def save(path: str | Path, tensors: dict[str, Tensor], meta: dict[str, Any] | None = None) -> None:
    """Writes tensors and metadata under a temporary name, flushes, reads the header back and renames.

    The same content gives the same bytes.

    Raises:
        OSError: the disk is full; what stood at `path` before is kept.
    """
    # safetensors refuses shared or strided memory; contiguous CPU copies are neither.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    with atomic_write(path, "wb") as file:
        file.write(to_bytes(plain, {"json": json.dumps(meta or {}, sort_keys=True)}))
        file.flush()
        _read_header(file.name, path)


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and metadata.

    Raises:
        UserError: missing, cut short, or not a safetensors file.
    """
    meta = read_meta(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, meta
    except SafetensorError as error:
        raise UserError(f"{path}: damaged checkpoint ({error}), expected a whole safetensors file") from None


def read_meta(path: str | Path) -> dict[str, Any]:
    """Reads the metadata alone; raises as `load` does."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file, expected a checkpoint")
    return _read_header(path, path)


def _read_header(file_name: str | Path, shown: str | Path) -> dict[str, Any]:
    try:
        with safe_open(str(file_name), framework="pt") as file:
            return json.loads((file.metadata() or {}).get("json", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        size = os.path.getsize(file_name)
        raise UserError(
            f"{shown}: damaged checkpoint ({size} bytes; {error}), expected a whole safetensors file"
        ) from None


def step_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of an update number lies."""
    return Path(folder) / f"step-{step:08d}.safetensors"


def steps(folder: str | Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    found = [path for path in Path(folder).glob("step-*.safetensors") if PATTERN.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(PATTERN.fullmatch(path.name)[1]))


def latest(folder: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that reads back, and a line for each newer one that does not."""
    damaged = []
    for path in reversed(steps(folder)):
        try:
            read_meta(path)
            return path, damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def prune(folder: str | Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and what an interrupted write left behind."""
    for path in steps(folder)[:-keep]:
        path.unlink()
    for path in Path(folder).glob(".step-*.tmp"):
        path.unlink()


def average(paths: Sequence[str | Path], prefix: str = "model.") -> dict[str, Tensor]:
    """The mean of the tensors that start with `prefix` over several checkpoints, the prefix taken off.

    Sums are kept in float64; integer tensors (counters) come from the last checkpoint.

    Raises:
        UserError: checkpoints whose names or shapes differ, or that hold no such tensor.
    """
    total: dict[str, Tensor] = {}
    first = {}
    for path in paths:
        tensors = {
            name.removeprefix(prefix): t for name, t in load(path)[0].items() if name.startswith(prefix)
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        first = first or shapes
        if not shapes or shapes != first:
            raise UserError(f"{path}: holds other tensors than {paths[0]}, expected checkpoints of one model")
        for name, tensor in tensors.items():
            exact = tensor.double() if tensor.is_floating_point() else tensor
            total[name] = total[name] + exact if name in total and tensor.is_floating_point() else exact
    last = tensors
    return {
        name: (value / len(paths)).to(last[name].dtype) if last[name].is_floating_point() else value
        for name, value in total.items()
    }


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Copies tensors into a model.

    Raises:
        UserError: names or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise UserError(f"{source}: weights of another model: {'; '.join(problems)}")
    model.load_state_dict(tensors)

"""Modules as ONNX files: traced, described, quantised, and compared with what they were made of."""

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.files import atomic_write
from toolkit.nn.masks import valid_mask

OPSET = 17
LARGEST = 2**31
"""Bytes that a file may have, in the format that ONNX is written in."""
TOLERANCE = 1e-3
"""Of differences, relative to the largest number of a tensor."""

Axes = Mapping[int, str]
"""Which axes may have any size, and what they are called."""


class Port(NamedTuple):
    """An input or output."""

    name: str
    axes: Axes
    """Axes of any size; the others are as in the example."""


def write_onnx(
    path: Path,
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    metadata: Mapping[str, str | int],
) -> None:
    """Writes a module in evaluation.

    Args:
        path: the file.
        module: takes tensors and returns a tensor or a tuple of them.
        example: what it is traced with; no axis of any size should be 1.
        inputs: its inputs.
        outputs: its outputs.
        metadata: what programs are told about it.

    Raises:
        UserError: onnx is not installed, or the module is too large for a file.
    """
    onnx = needed("onnx")
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > 0.95 * LARGEST:
        raise UserError(f"{path.name}: found weights of {size} bytes, expected less than {LARGEST}")
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing, which suits these models well, is called deprecated; and it warns of every number in Python.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(example),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            dynamic_axes={port.name: dict(port.axes) for port in (*inputs, *outputs)},
        )
    model = onnx.load_from_string(file.getvalue())
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    with atomic_write(path, "wb") as written:
        written.write(model.SerializeToString())


def write_int8(path: Path, target: Path, kinds: Sequence[str]) -> None:
    """Writes the same model with the weights of matrix products, or of other kinds of nodes, in 8 bits.

    Each column of a matrix has a scale of its own. Activations are quantised as they come ("dynamic" quantisation), so
    no data is needed.

    Raises:
        UserError: onnxruntime is not installed.
    """
    needed("onnxruntime")
    quantization = import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, target.name)
        # It advises a step that is of no use here.
        logging.disable(logging.WARNING)
        try:
            quantization.quantize_dynamic(
                path,
                name,
                op_types_to_quantize=list(kinds),
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        content = Path(name).read_bytes()
    with atomic_write(target, "wb") as file:
        file.write(content)


def compare(path: Path, module: nn.Module, arguments: Sequence[Tensor], counted: bool = False) -> None:
    """Runs a file and the module it was made of on the same arguments, other ones than it was traced with.

    Args:
        path: the file.
        module: what it was made of.
        arguments: of both.
        counted: whether the second output (N,) says how many frames of the first (N, T, ...) are valid; the others
            may hold anything.

    Raises:
        RuntimeError: they differ.
    """
    with torch.no_grad():
        wanted = module(*arguments)
    wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
    found = load(path)(arguments)
    for theirs, ours in zip(found, wanted, strict=True):
        if theirs.shape != ours.shape:
            raise RuntimeError(f"{path}: gives {tuple(theirs.shape)}, the model {tuple(ours.shape)}")
    if counted:
        valid = valid_mask(wanted[1], wanted[0].shape[1])
        found[0], wanted[0] = found[0][valid], wanted[0][valid]
    for theirs, ours in zip(found, wanted, strict=True):
        difference = (theirs - ours).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, ours.abs().max().item()):
            raise RuntimeError(f"{path}: differs from the model by {difference}")


def load(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """A file as a function of its inputs in their order, on the CPU.

    Raises:
        UserError: onnxruntime is not installed.
    """
    runtime = needed("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(arguments: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, arguments, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


def needed(name: str) -> ModuleType:
    """A module of the extra `export`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f'{name} is not installed; pip install -e ".[export]"') from None

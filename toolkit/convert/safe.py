"""Reads checkpoints of other programs without running code from them.

PyTorch's checkpoints are pickles, in which a file can name any function to be called. Here only tensors and plain
Python values are built; objects of all other classes are replaced by stand-ins that keep what the file says of them.
"""

import io
import json
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from toolkit.errors import UserError

LEGACY_PARTS = 5
"""Pickles at the start of a file in the format of before PyTorch 1.6: magic number, protocol, system, object, keys."""
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
"""Modules as pickles name them that can be read by Python 2 -> as PyTorch looks them up."""
REFUSED = {"os", "posix", "nt", "sys"}
"""Modules that PyTorch's reader refuses, even where a stand-in would take their place."""
EXPECTED = "a checkpoint (.safetensors, or .pt, .pth, .bin as torch.save writes them)"


class _Made(type):
    """Calling the class gives a stand-in; `__new__` alone gives a dictionary with attributes.

    Pickles make objects in either way. Those made by `__new__` may be filled like a dictionary afterwards, which
    PyTorch's reader allows for dictionaries only.
    """

    def __call__(cls, *args: Any) -> "StandIn":
        made = object.__new__(cls)
        made.args = args
        return made


class StandIn(metaclass=_Made):
    """Stands for an object of a class, or for the result of a function, that is not run.

    Attributes:
        args: what the class or function was to be called with.
        state: what the object was to hold.
    """

    args: tuple = ()
    state: Any = None

    def __new__(cls, *args: Any) -> OrderedDict:
        return OrderedDict()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:
        return id(self)


def _empty_dict(*_: Any) -> dict:
    return {}


def _empty_list(*_: Any) -> list:
    return []


CONTAINERS = {"collections.defaultdict": _empty_dict, "collections.deque": _empty_list}
"""What is filled after it was made by a call, as a stand-in cannot be."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The whole content of a checkpoint; nothing in it is run.

    A safetensors file gives its tensors under "model", beside the settings that its metadata key `config` holds as
    JSON.

    Raises:
        UserError: missing, damaged, not a checkpoint, or one that cannot be read without running it.
    """
    path = Path(path)
    if not path.is_file():
        found = "found a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}, expected {EXPECTED}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        zipped = zipfile.is_zipfile(path)
        names = _globals_of_zip(path) if zipped else _globals_of_legacy(path)
        if refused := sorted(name for name in names if name.split(".")[0] in REFUSED):
            raise ValueError(f"it names {refused[0]}, which no checkpoint needs")
        # PyTorch's own choice of harmless names comes first; these are for the others.
        allowed: list[Any] = [(CONTAINERS.get(name, StandIn), name) for name in names]
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = str(error).split("WeightsUnpickler error: ")[-1].strip().split("\n")[0].split(". ")[0]
        raise UserError(
            f"{path}: damaged or no checkpoint ({reason[:100] or type(error).__name__}), expected {EXPECTED}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: found {type(content).__name__}, expected a dictionary with a model's weights"
        )
    return content


def state_dict(
    content: dict[str, Any], path: str | Path, keys: Sequence[str] = ("model", "state_dict")
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in a checkpoint: under the first of `keys` that has any, or at its top.

    Returns:
        Name -> tensor, without gradients; and the names of what stands among them and is no tensor.

    Raises:
        UserError: there are none.
    """
    places = [*(content.get(key) for key in keys), content]
    state = next((place for place in places if isinstance(place, dict) and _has_tensors(place)), {})
    tensors = {str(name): value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise UserError(f"{path}: found {names}, expected weights at the top or under {' or '.join(keys)}")
    return tensors, [str(name) for name, value in state.items() if not isinstance(value, Tensor)]


def _has_tensors(values: dict[str, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values.values())


def plain(value: Any) -> Any:
    """A value with its stand-ins replaced by what they hold: dictionaries, lists, numbers, text.

    An `argparse.Namespace` and the like become dictionaries of their attributes, a node of OmegaConf its content, a
    member of an enumeration its value (or its name, by which some releases of Python 3.11 wrote it), a class None.

    Raises:
        RecursionError: something holds itself.
    """
    if value is StandIn:
        return None
    if isinstance(value, StandIn):
        if isinstance(value.state, dict):
            return plain(value.state)
        if len(value.args) == 2 and value.args[0] is StandIn and isinstance(value.args[1], str):
            return value.args[1]  # getattr(class, name)
        return plain(value.args[0] if len(value.args) == 1 else value.args)
    if isinstance(value, dict):
        attributes = vars(value) if isinstance(value, OrderedDict) else {}
        for name in ("_content", "_val"):
            if name in attributes:
                return plain(attributes[name])
        return {str(key): plain(part) for key, part in {**value, **attributes}.items()}
    if isinstance(value, list | tuple | set):
        return [plain(part) for part in value]
    return value


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            settings = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}), expected {EXPECTED}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: metadata `config`: found {settings!r}, expected a JSON object")
    return {**settings, "model": tensors}


def _globals_of_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        return _globals(io.BytesIO(archive.read(name)))


def _globals_of_legacy(path: Path) -> set[str]:
    with open(path, "rb") as file:
        return set().union(*(_globals(file) for _ in range(LEGACY_PARTS)))


def _globals(file: BinaryIO) -> set[str]:
    """The classes and functions that a pickle names; it is taken apart, not run."""
    found = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = argument.rpartition(" ")
            found.add(f"{RENAMED.get(module, module)}.{name}")
    return found

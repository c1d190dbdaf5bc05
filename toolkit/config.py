"""Typed, strict configuration: YAML plus dotted overrides become a tree of dataclasses, or one clear error.

A dataclass stands beside the class that it configures. A field that offers a choice of parts (an encoder, an
objective, a schedule) is declared with `choice(REGISTRY, default)`; in the YAML its `name` key picks the part, and the
other keys are those of the part that was picked::

    encoder:
      name: conformer
      num_layers: 6
"""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from toolkit.errors import UserError
from toolkit.files import atomic_write

Config = TypeVar("Config")


def choice(registry: Mapping[str, Any], default: str) -> Any:
    """A dataclass field whose value is the configuration of one of the parts in `registry`.

    Args:
        registry: name -> class. The class has an attribute `Config`, a dataclass whose field `name` equals the name.
        default: the part that is taken if the YAML names none.
    """
    return dataclasses.field(
        default_factory=lambda: registry[default].Config(),
        metadata={"registry": registry, "default": default},
    )


def load(cls: type[Config], path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file, applies overrides, checks every key and type, and builds the dataclasses.

    Args:
        cls: the dataclass at the root.
        path: a YAML file, or None for defaults only.
        overrides: strings such as "--model.encoder.dim=256".

    Raises:
        UserError: unreadable YAML, an unknown key (with the nearest valid one), a wrong type, a value that a
            dataclass refuses.
    """
    where = str(path) if path else "configuration"
    return build(cls, apply_overrides(read_yaml(path) if path else {}, overrides), where)


def build(cls: type[Config], raw: dict, where: str) -> Config:
    """Checks a plain dictionary against a dataclass tree and builds it; `where` names its origin in errors."""
    leaves: dict[str, Leaf] = {}
    _collect(cls, raw, "", where, leaves)
    return _construct(cls, raw, "", where, _check_types(leaves, raw, where))


def read_yaml(path: str | Path) -> dict:
    """Reads one YAML mapping; raises UserError with file and line."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, expected YAML") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UserError(f"{path}: not a text file, expected YAML") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}:{line}: not YAML ({error.problem})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: found {type(content).__name__} at the top, expected a mapping of keys to values"
        )
    return content


def apply_overrides(raw: dict, overrides: Sequence[str]) -> dict:
    """Sets dotted keys ("--a.b=c", the value read as YAML) in a copy of `raw`."""
    raw = json.loads(json.dumps(raw, default=str))
    for override in overrides:
        key, equals, text = override.removeprefix("--").partition("=")
        if not equals or not key or not override.startswith("--"):
            raise UserError(f"command line: found {override!r}, expected --key.subkey=value")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        node = raw
        *parents, last = key.split(".")
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise UserError(f"command line: {key}: {parent} holds a value, not a section")
        node[last] = value
    return raw


def to_dict(config: Any) -> dict:
    """A dataclass tree as plain dictionaries, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def save(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as YAML, atomically."""
    with atomic_write(path) as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False, allow_unicode=True)


def differences(old: dict, new: dict, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys at which two plain configurations differ, with both values."""
    found = {}
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found.update(differences(a, b, f"{prefix}{key}."))
        elif a != b:
            found[prefix + key] = (a, b)
    return found


def describe(config: Any) -> str:
    """The configuration as commented YAML: each key with what it means."""
    return "\n".join(_describe(config, 0)) + "\n"


@dataclasses.dataclass
class Leaf:
    """One key that holds a value rather than a section."""

    type: Any
    default: Any
    help: str


@cache
def _docs(cls: type) -> dict[str, str]:
    import docstring_parser

    # A field may be explained where it is inherited from.
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    params = [param for base in bases for param in docstring_parser.parse_from_object(base).params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _section(field: dataclasses.Field, hint: Any, value: Any, key: str, where: str) -> type | None:
    """The dataclass that a field holds (picked by `name` where there is a choice), or None for a plain value."""
    if "registry" not in field.metadata:
        return hint if dataclasses.is_dataclass(hint) else None
    registry = field.metadata["registry"]
    name = (value or {}).get("name", field.metadata["default"]) if isinstance(value, dict | None) else value
    if not isinstance(name, str) or name not in registry:
        raise UserError(f"{where}: {key}.name: found {name!r}{_nearest(str(name), registry)}")
    return registry[name].Config


def _collect(
    cls: type, raw: Any, prefix: str, where: str, leaves: dict[str, Leaf], defaults: Any = None
) -> None:
    if not isinstance(raw, dict):
        raise UserError(f"{where}: {prefix.rstrip('.')}: found {raw!r}, expected a section with keys")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            raise UserError(f"{where}: unknown key {prefix}{key}{_nearest(str(key), fields, prefix)}")
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        section = _section(field, hints[name], raw.get(name), prefix + name, where)
        # A section's own defaults give way to those of the field that holds it.
        default = _default(field) if defaults is None else getattr(defaults, name)
        if section:
            inherited = default if type(default) is section else None
            _collect(section, raw.get(name) or {}, f"{prefix}{name}.", where, leaves, inherited)
        else:
            leaves[prefix + name] = Leaf(hints[name], default, _docs(cls).get(name, ""))


def _nearest(found: str, valid: Mapping[str, Any], prefix: str = "") -> str:
    near = difflib.get_close_matches(found, list(valid), n=1, cutoff=0.5)
    return f"; nearest valid: {prefix}{near[0]}" if near else f"; expected one of: {', '.join(valid)}"


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return (
        field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING
    )


def _check_types(leaves: dict[str, Leaf], raw: dict, where: str) -> dict[str, Any]:
    """Runs every given value through jsonargparse's type checks; returns dotted key -> value."""
    import jsonargparse

    values = {}
    for key, leaf in leaves.items():
        node: Any = raw
        for part in key.split("."):
            node = node.get(part, dataclasses.MISSING) if isinstance(node, dict) else dataclasses.MISSING
        if node is dataclasses.MISSING:
            if leaf.default is dataclasses.MISSING:
                raise UserError(f"{where}: {key} is missing: {leaf.help or 'it has no default'}")
            values[key] = leaf.default
            continue
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--value", type=leaf.type)
        try:
            if node is None and type(None) not in typing.get_args(leaf.type):
                raise TypeError("jsonargparse takes null for any type")
            values[key] = parser.parse_object({"value": node}).value
        except (jsonargparse.ArgumentError, TypeError, ValueError):
            raise UserError(f"{where}: {key}: found {node!r}, expected {_type_name(leaf.type)}") from None
    return values


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return (
        hint.__name__
        if isinstance(hint, type) and not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )


def _construct(cls: type, raw: dict, prefix: str, where: str, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    arguments = {}
    for field in dataclasses.fields(cls):
        key = prefix + field.name
        if key in values:
            arguments[field.name] = values[key]
        else:
            section = _section(field, hints[field.name], raw.get(field.name), key, where)
            arguments[field.name] = _construct(section, raw.get(field.name) or {}, f"{key}.", where, values)
    try:
        return cls(**arguments)
    except ValueError as error:
        raise UserError(f"{where}: {prefix.rstrip('.') or 'top level'}: {error}") from None


def _describe(config: Any, depth: int) -> list[str]:
    pad, lines = "  " * depth, []
    for field in dataclasses.fields(config):
        value, doc = getattr(config, field.name), _docs(type(config)).get(field.name, "")
        if dataclasses.is_dataclass(value):
            note = f"  # {doc}" if doc else ""
            if "registry" in field.metadata:
                note = f"  # {doc + ' ' if doc else ''}(name: {', '.join(field.metadata['registry'])})"
            lines += [f"{pad}{field.name}:{note}", *_describe(value, depth + 1)]
        else:
            text = f"{pad}{field.name}: {json.dumps(value)}"
            lines.append(f"{text:<36}  # {doc}" if doc else text)
    return lines

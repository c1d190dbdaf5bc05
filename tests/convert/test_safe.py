"""Checkpoints of other programs are read, and nothing in them is run."""

import argparse
import collections
import enum
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from toolkit.convert.safe import plain, read_checkpoint, state_dict
from toolkit.errors import UserError

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Mode(enum.Enum):
    """As configurations of other programs hold them."""

    DEFAULT = "default"


class AttributeDict(dict):
    """A dictionary with attributes, as icefall has."""

    __getattr__ = dict.__getitem__


class Node:
    """A node of a configuration tree that knows its parent, as OmegaConf's do."""

    def __init__(self, content, parent=None):
        self._metadata = {"parent": parent, "type": dict}
        self._parent = parent
        if isinstance(content, dict):
            self._content = {key: Node(value, self) for key, value in content.items()}
        else:
            self._val = content


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Slots:
    """An object whose state is no dictionary."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 1


def written(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_of_other_programs_become_plain_values(tmp_path, zipped):
    counts = collections.defaultdict(list, a=[1])
    content = {
        "model": collections.OrderedDict(weight=torch.nn.Parameter(WEIGHT), half=WEIGHT.half()),
        "args": argparse.Namespace(
            layers=12, mode=Call(Mode, "default"), nested=argparse.Namespace(deep=[1, (2.5, None)])
        ),
        "cfg": Node(
            {
                "model": {"heads": 4, "norm": True, "text": "[(512,10,5)]"},
                # Some releases of Python 3.11 write members of enumerations so.
                "task": {"mode": Call(getattr, Mode, "DEFAULT")},
            }
        ),
        "params": AttributeDict(dim="192,256", path=Path("exp") / "a", scale=np.float32(0.5)),
        "others": [counts, collections.deque([1, 2]), np.arange(3), random.Random(0), {1, 2}, print, Node],
        "optimizer": torch.optim.Adam([torch.nn.Parameter(WEIGHT)]).state_dict(),
        "epoch": 7,
    }
    found = read_checkpoint(written(tmp_path / "x.pt", content, zipped))
    assert list(found) == list(content) and found["epoch"] == 7
    tensors, rest = state_dict(found, "x.pt")
    assert torch.equal(tensors["weight"], WEIGHT) and tensors["half"].dtype == torch.float16 and not rest
    assert not tensors["weight"].requires_grad
    assert plain(found["args"]) == {"layers": 12, "mode": "default", "nested": {"deep": [1, [2.5, None]]}}
    assert plain(found["cfg"]) == {
        "model": {"heads": 4, "norm": True, "text": "[(512,10,5)]"},
        "task": {"mode": "DEFAULT"},
    }
    assert plain(found["params"])["dim"] == "192,256"
    assert plain(found["others"])[:2] == [{"a": [1]}, [1, 2]]
    assert json.loads(json.dumps(plain(found["args"])))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.system, eval, os.mkdir, pickle.loads], ids=lambda f: f.__name__)
def test_nothing_is_run(tmp_path, zipped, function):
    trap = tmp_path / "trap"
    text = {
        "system": f"touch {trap}",
        "eval": f"open({str(trap)!r}, 'w')",
        "mkdir": str(trap),
        "loads": pickle.dumps(Call(os.mkdir, str(trap))),
    }
    attack = Call(function, text[function.__name__])
    path = written(tmp_path / "bad.pt", {"model": {"weight": WEIGHT}, "args": attack}, zipped)
    try:
        content = read_checkpoint(path)
    except UserError as error:
        assert function in (os.system, os.mkdir)
        assert f"names posix.{function.__name__}, which no checkpoint needs" in str(error)
    else:
        assert "touch" not in str(plain(content["args"])) and torch.equal(content["model"]["weight"], WEIGHT)
    assert not trap.exists()
    # The trap does spring where pickles are run.
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_an_object_that_cannot_be_stood_in_for(tmp_path):
    with pytest.raises(
        UserError, match=r"x.pt: damaged or no checkpoint \(.*expected a checkpoint"
    ) as caught:
        read_checkpoint(written(tmp_path / "x.pt", {"model": {"weight": WEIGHT}, "slots": Slots()}))
    assert "\n" not in str(caught.value)


def test_something_that_holds_itself(tmp_path):
    loop = argparse.Namespace()
    loop.itself = loop
    content = read_checkpoint(written(tmp_path / "x.pt", {"args": loop}))
    with pytest.raises(RecursionError):
        plain(content["args"])


def test_safetensors_with_settings(tmp_path):
    save_file({"a": WEIGHT}, tmp_path / "x.safetensors", {"config": '{"dim": [1, 2]}'})
    found = read_checkpoint(tmp_path / "x.safetensors")
    assert found["dim"] == [1, 2] and torch.equal(state_dict(found, "x")[0]["a"], WEIGHT)
    for config in ("{", "3"):
        save_file({"a": WEIGHT}, tmp_path / "x.safetensors", {"config": config})
        with pytest.raises(UserError, match=r"x.safetensors: .*expected"):
            read_checkpoint(tmp_path / "x.safetensors")


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_files_that_are_cut_short(tmp_path, kind, share):
    if kind == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file({"model": torch.zeros(500)}, path)
    else:
        path = written(tmp_path / "x.pt", {"model": {"w": torch.zeros(500)}}, kind == "zip")
    with pytest.raises(UserError, match=r"x\.\w+: damaged") as caught:
        read_checkpoint(cut(path, share))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["hello world\n", "(lp0\n.", "{}", "\0\0\0", "PK\x03\x04", "<html>not found</html>"]
)
def test_files_of_another_kind(tmp_path, text):
    (tmp_path / "x.pt").write_text(text)
    with pytest.raises(UserError, match=r"x.pt: (damaged|found list)"):
        read_checkpoint(tmp_path / "x.pt")


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match="none.pt: no such file, expected a checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="found a folder, expected a checkpoint"):
        read_checkpoint(tmp_path)


def test_no_weights(tmp_path):
    for content, message in [({"model": {}}, "found model"), ({}, "found nothing"), ({"a": 1}, "found a")]:
        with pytest.raises(UserError, match=f"x.pt: {message}, expected weights at the top or under model"):
            state_dict(content, "x.pt")
    with pytest.raises(UserError, match="x.pt: found list, expected a dictionary"):
        read_checkpoint(written(tmp_path / "x.pt", [WEIGHT]))
    tensors, rest = state_dict({"a": WEIGHT, "_ema": {"b": WEIGHT}}, "x.pt")
    assert list(tensors) == ["a"] and rest == ["_ema"]
    nested = {"model": {"layers": 1}, "state_dict": {"a": WEIGHT, "step": 3}, "epoch": torch.zeros(1)}
    tensors, rest = state_dict(nested, "x.pt")
    assert list(tensors) == ["a"] and rest == ["step"]

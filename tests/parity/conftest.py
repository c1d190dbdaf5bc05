"""Vectors: what reference programs gave for random inputs, kept outside the repository for their size."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import Tensor

Vectors = Callable[[str], Iterator[tuple[dict[str, Tensor], dict]]]


@pytest.fixture(scope="session")
def vectors(root: Path) -> Vectors:
    """A function: name -> (tensors, settings) of every file NAME*.safetensors; the test is skipped if there is none.

    They are looked for in $TOOLKIT_VECTORS, else in shared/vectors beside the repository.
    """
    named = os.environ.get("TOOLKIT_VECTORS")
    folder = Path(named) if named else root.parent / "shared" / "vectors"

    def find(name: str) -> Iterator[tuple[dict[str, Tensor], dict]]:
        paths = sorted(folder.glob(f"{name}*.safetensors"))
        if not paths:
            assert not named, f"TOOLKIT_VECTORS={named} holds no {name}*.safetensors"
            pytest.skip(f"no vectors: set TOOLKIT_VECTORS to the folder that holds {name}*.safetensors")
        for path in paths:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                yield tensors, json.loads(file.metadata()["config"])

    return find

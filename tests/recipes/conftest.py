"""The scripts of egs/mini."""

import importlib
import sys
from types import SimpleNamespace

import pytest

SCRIPTS = ("corpus", "sentences", "fetch", "manifests", "tts", "tasks", "meetings", "sherpa_check")


@pytest.fixture(scope="module")
def local(root):
    """The scripts, as modules."""
    folder = str(root / "egs" / "mini" / "local")
    sys.path.insert(0, folder)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in SCRIPTS})
    finally:
        sys.path.remove(folder)
        for name in SCRIPTS:
            sys.modules.pop(name, None)

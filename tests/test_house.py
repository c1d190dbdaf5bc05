"""The rules of the house, as tests: who may import whom, sizes, style, safety, what every command must do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from toolkit.requirements import EXTRAS, REQUIRED, modules

ROOT = Path(__file__).resolve().parent.parent

# Who may import whom. A room is a folder or a file of toolkit/; "toolkit" is toolkit/__init__.py.
BOTTOM = {"errors", "files", "processes", "progress"}
MODELS = {"config", "checkpoint", "text", "nn", "losses"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "processes": set(),
    "progress": set(),
    "requirements": set(),
    "config": BOTTOM,
    "checkpoint": BOTTOM,
    "text": BOTTOM | {"config"},
    "nn": BOTTOM | {"config"},
    "losses": BOTTOM | {"config"},
    "optim": BOTTOM | {"config"},
    "models": BOTTOM | MODELS,
    "data": BOTTOM | MODELS | {"models"},
    "decode": BOTTOM | MODELS | {"models"},
    "export": BOTTOM | MODELS | {"models"},
    "convert": BOTTOM | MODELS | {"models"},
    "ssl": BOTTOM | MODELS | {"models", "data", "decode", "export"},
    "tasks": BOTTOM | MODELS | {"models", "data", "decode", "export", "ssl", "optim"},
    "train": BOTTOM | {"config", "checkpoint", "optim"},
    "report": BOTTOM | MODELS | {"models", "data", "decode", "score"},
    "score": set(),
    "toolkit": BOTTOM | {"models", "tasks"},
    "s3prl": {"toolkit"},
}
# Measurements and commands tie everything together.
MAY_IMPORT["bench"] = set(MAY_IMPORT)
MAY_IMPORT["bin"] = set(MAY_IMPORT)

# A task's configuration holds the loop's, which stands beside the loop; a task knows no more of the loop.
EXCEPTIONS = {("tasks", "toolkit.train.config")}

# Required packages that no module names: the one that does the importing.
IMPORTED_BY_OTHERS = {"urllib3": "lhotse", "tensorboard": "torch.utils.tensorboard"}

# Modules that are on no package index: part of dscore, which tests/score/der_cases.py says where to get.
UNPACKAGED = {"scorelib"}

UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def files(*folders: str, suffix: str = "") -> list[Path]:
    """The files of these folders of the repository, without what runs leave behind."""
    found = [
        path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}")) if path.is_file()
    ]
    left = {"egs": {"__pycache__", "data", "exp"}}
    return [
        path
        for path in found
        if not left.get(path.relative_to(ROOT).parts[0], {"__pycache__"}) & set(path.parts)
    ]


def sources() -> list[Path]:
    return files("toolkit", suffix=".py")


def commands() -> list[str]:
    return [path.stem for path in sources() if path.parent.name == "bin" and not path.stem.startswith("_")]


def shell_scripts() -> list[Path]:
    found = [ROOT / "run.sh", ROOT / ".ci/run", *files("toolkit", "egs", "tools", "tests", suffix=".sh")]
    return [path for path in found if path.exists()]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in the file, those inside functions included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole name"
            if node.module == "toolkit":
                yield from ((node.lineno, f"toolkit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield node.lineno, name.value
            elif isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
                yield node.lineno, name.values[0].value


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "toolkit").with_suffix("").parts
    return "toolkit" if parts == ("__init__",) else parts[0]


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sources():
        assert room(path) in MAY_IMPORT, f"{room(path)} is a new room; say above what it may import"
        for line, name in imported(path):
            top, _, rest = name.partition(".")
            # `from toolkit import load` takes a name of toolkit/__init__.py, which is no room.
            target = rest.split(".")[0] if rest.split(".")[0] in MAY_IMPORT else "toolkit"
            allowed = MAY_IMPORT[room(path)] | {room(path)}
            if top == "toolkit" and target not in allowed and (room(path), name) not in EXCEPTIONS:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room(path)} may not import {target}")
    assert not wrong, "\n".join(wrong)


def test_arrows_form_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        free = {name for name, targets in MAY_IMPORT.items() if name not in done and targets <= done}
        assert free, f"rooms that may import each other: {set(MAY_IMPORT) - done}"
        done |= free


def test_no_file_is_over_500_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in [*sources(), *files("egs", "tools", "tests", suffix=".py"), *shell_scripts()]
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff(arguments: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", "ruff", *arguments, ROOT], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_unsafe_code() -> None:
    wrong = []
    for path in sources():
        for line, name in imported(path):
            if name.split(".")[0] in UNSAFE_MODULES:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {name}")
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            function = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if function in ("eval", "exec"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {function}()")
            if function == "torch.load" and given.get("weights_only") != "True":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: torch.load without weights_only=True")
            if given.get("allow_pickle") == "True":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: allow_pickle=True")
    assert not wrong, "\n".join(wrong)


def test_no_error_is_swallowed() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(part, ast.Pass) for part in node.body)
    ]
    assert not wrong


def test_imports_are_declared() -> None:
    """Every third-party import stands in toolkit/requirements.py, and what is required is imported."""
    required = imports_of(REQUIRED)
    optional = {name: imports_of(EXTRAS[name]) for name in EXTRAS}
    for_tests = optional.pop("test") | optional.pop("references")
    allowed = {
        "toolkit": {**required, **{top: name for extra in optional.values() for top, name in extra.items()}}
    }
    allowed["egs"] = allowed["tools"] = allowed["toolkit"]
    allowed["tests"] = allowed["toolkit"] | for_tests
    found, wrong = set(), []
    for path in files(*allowed, suffix=".py"):
        folder = path.relative_to(ROOT).parts[0]
        for line, top in third_party(path):
            if top not in allowed[folder]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {top} is not in toolkit/requirements.py")
            elif folder == "toolkit":
                found.add(allowed[folder][top])
    assert not wrong, "\n".join(wrong)
    assert set(required.values()) - found <= set(IMPORTED_BY_OTHERS), "required, but imported nowhere"


def imports_of(requirements: dict[str, str]) -> dict[str, str]:
    """Module -> the distribution that brings it along."""
    names = [re.match(r"[A-Za-z0-9_.-]+", line).group() for line in requirements]
    return {top: name for name in names for top in modules_or_name(name)}


def modules_or_name(distribution: str) -> set[str]:
    try:
        return modules(distribution)
    except metadata.PackageNotFoundError:  # an optional part that is not here
        return {distribution.replace("-", "_")}


def third_party(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import of something that others made."""
    ours = {"toolkit", "tests", *(other.stem for other in path.parent.glob("*.py"))}
    for line, name in imported(path):
        top = name.split(".")[0]
        if top not in ours | UNPACKAGED and top not in sys.stdlib_module_names:
            yield line, top


def test_no_machine_paths() -> None:
    folders = ("toolkit", "egs", "tools", "tests", "docs", ".ci")
    everything = [*files(*folders), *(path for path in ROOT.iterdir() if path.is_file())]
    pattern = re.compile(r"(^|[^A-Za-z0-9_.$}])/(" + "work|root|farm|home|Users" + r")/")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in everything
        if path.suffix in ("", ".py", ".sh", ".md", ".yaml", ".toml", ".txt", ".html", ".json", ".jsonl")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files("egs", suffix=".yaml"), ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_shell_scripts() -> None:
    for path in shell_scripts():
        subprocess.run(["bash", "-n", path], check=True)
    # SC2154: it does not see that tools/stages.sh sets $recipe, $quick and $fresh.
    options = ["--severity=warning", "--external-sources", "--exclude=SC2154"]
    command = [Path(sys.executable).parent / "shellcheck", *options]
    run = subprocess.run([*command, *shell_scripts()], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout


def test_light_imports() -> None:
    """What every command imports first must not take seconds."""
    code = (
        "import toolkit, toolkit.bin, toolkit.errors, toolkit.files, toolkit.score, sys; print(*sys.modules)"
    )
    assert_no_heavy_module(code)


@pytest.mark.parametrize("command", commands())
def test_help_is_light(command: str) -> None:
    """--help explains the command, and does so before torch and its like are imported."""
    code = f"""
import runpy, sys
sys.argv = ["{command}", "--help"]
try:
    runpy.run_module("toolkit.bin.{command}", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules)
"""
    assert "usage:" in assert_no_heavy_module(code)


def assert_no_heavy_module(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    text, loaded = run.stdout.strip().rpartition("\n")[::2]
    assert not {"torch", "lhotse", "scipy", "sklearn", "matplotlib"} & set(loaded.split())
    return text


def test_commands_are_listed_with_a_summary() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "toolkit.bin"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for command in commands():
        assert re.search(rf"^  {command} +\S+ \S+", run.stdout, re.MULTILINE), f"{command}: no summary"

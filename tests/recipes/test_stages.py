"""tools/stages.sh on a toy recipe, and what tools/environment.sh says when there is no environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """#!/usr/bin/env bash
# Counts to a number.
# A second line of help.
. "{root}/tools/stages.sh"

exp=${{TOOLKIT_EXP:-$recipe/exp}}
count=5; if $quick; then count=2; fi

stage numbers "writes the numbers" numbers
stage add-up "adds them up" add_up conf/sum.txt "$exp/numbers"
stage last "says good-bye" last conf/last.txt?

numbers() {{
  note numbers
  seq 1 $count > "$exp/numbers"
}}

add_up() {{
  note add-up
  awk '{{ sum += $1 }} END {{ print sum }}' "$exp/numbers" > "$exp/sum"
}}

last() {{
  stage_drop "$exp/left"
  note last "$(cat "$exp/left" 2> /dev/null)"
  echo numbers >> "$exp/left"
}}

note() {{ echo "$@" >> "$exp/log"; }}

run_stages "$@"
"""


class Recipe:
    """The toy recipe in a folder of its own."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.script = folder / "run.sh"
        self.script.write_text(RECIPE.format(root=root))
        (folder / "conf").mkdir()
        (folder / "conf/sum.txt").write_text("plain\n")

    def edit(self, old: str, new: str) -> None:
        text = self.script.read_text()
        assert old in text
        self.script.write_text(text.replace(old, new))

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Runs it; what it printed, both streams."""
        run = subprocess.run(
            ["bash", "run.sh", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.returncode == code, run.stdout
        return run.stdout

    def log(self, *arguments: str) -> list[str]:
        """Runs it; what the functions of the stages that really ran noted, a line each."""
        log = self.folder / "exp/log"
        log.unlink(missing_ok=True)
        self.run(*arguments)
        return log.read_text().splitlines() if log.exists() else []

    def ran(self, *arguments: str) -> list[str]:
        """Runs it; the names of the stages that really ran."""
        return [line.split()[0] for line in self.log(*arguments)]


@pytest.fixture
def recipe(tmp_path: Path, root: Path) -> Recipe:
    return Recipe(tmp_path, root)


def test_all_stages_in_order_with_headers_and_times(recipe: Recipe) -> None:
    text = recipe.run()
    assert "=== stage 1/3 numbers: writes the numbers" in text
    assert "=== stage 3/3 last: done in 0:00:0" in text
    assert (recipe.folder / "exp/sum").read_text() == "15\n"
    rows = [json.loads(line) for line in (recipe.folder / "exp/times.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["numbers", "add-up", "last"]
    assert all(row["seconds"] >= 0 for row in rows)


def test_second_start_does_nothing_again(recipe: Recipe) -> None:
    recipe.run()
    times = (recipe.folder / "exp/times.jsonl").read_bytes()
    assert recipe.ran() == []
    assert recipe.run().count("done before") == 3
    assert (recipe.folder / "exp/times.jsonl").read_bytes() == times


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stop-stage", "1"], ["numbers"]),
        (["--stage", "3"], ["last"]),
        (["--stage", "2", "--stop-stage", "2"], ["add-up"]),
        (["--stage", "add-up", "--stop-stage", "last"], ["add-up", "last"]),
        (["last", "numbers"], ["numbers", "last"]),
        (["add-up", "--stage", "1"], ["add-up"]),
    ],
)
def test_some_stages(recipe: Recipe, arguments: list[str], expected: list[str]) -> None:
    recipe.run()
    assert recipe.ran("--force", *arguments) == expected


def test_what_changed_is_done_again_and_what_depends_on_it(recipe: Recipe) -> None:
    recipe.run()
    recipe.edit("good-bye", "see you")  # a description is no part of the work
    assert recipe.ran() == []
    recipe.edit('echo "$@"', 'echo "$@" ""')  # a helper that all three call
    assert recipe.ran() == ["numbers", "add-up", "last"]
    recipe.edit("{ sum += $1 }", "{ sum += $1 * $1 }")
    assert recipe.ran() == ["add-up"]
    recipe.edit("count=5", "count=6")  # a variable of the first; the second reads what it wrote
    assert recipe.ran() == ["numbers", "add-up"]
    (recipe.folder / "conf/sum.txt").write_text("other\n")
    assert recipe.ran() == ["add-up"]
    recipe.edit("last() {", "last() {\n# a comment\n")
    assert recipe.ran() == []
    (recipe.folder / "conf/last.txt").write_text("may be missing\n")
    assert recipe.ran() == ["last"]
    # The name of a stage's function is also a word in what another stage writes.
    recipe.edit("seq 1 $count", "seq 2 $count")
    assert recipe.ran() == ["numbers", "add-up"]


def test_quick_is_another_command_that_replaces_no_full_run(recipe: Recipe) -> None:
    assert recipe.ran("--quick") == ["numbers", "add-up", "last"]
    assert (recipe.folder / "exp/sum").read_text() == "3\n"
    assert recipe.ran("--quick") == []
    assert recipe.ran() == ["numbers", "add-up", "last"]
    text = recipe.run("--quick", code=2)
    assert "exp: holds results without --quick" in text and text.count("\n") == 1
    assert (recipe.folder / "exp/sum").read_text() == "15\n"
    assert recipe.ran("--quick", "--force") == ["numbers", "add-up", "last"]
    assert recipe.ran("--quick") == []


def test_what_to_resume_is_kept_and_what_to_do_anew_is_dropped(recipe: Recipe) -> None:
    left = recipe.folder / "exp/left"
    recipe.edit('echo numbers >> "$exp/left"', 'echo half >> "$exp/left"; [ -e go ]')
    recipe.run(code=1)
    recipe.run(code=1)
    assert left.read_text() == "half\nhalf\n"
    (recipe.folder / "go").touch()
    assert recipe.log("last")[0] == "last half"
    assert recipe.log("last") == []
    assert recipe.log("last", "--force") == ["last "]
    recipe.edit("half", "another command")
    assert recipe.log("last") == ["last "]


@pytest.mark.parametrize("where", ["before", "after"])
def test_half_done_work_for_other_inputs_does_not_survive_an_interruption(recipe: Recipe, where: str) -> None:
    """Killed before it is dropped, it is dropped at the next start; work that came later is kept."""
    recipe.run()
    stop = "[ -e go ] || kill -9 $$ $BASHPID"
    old = '  stage_drop "$exp/left"\n'
    recipe.edit(
        old, f"  {stop}\n{old}" if where == "before" else f'{old}  echo new >> "$exp/left"\n  {stop}\n'
    )
    recipe.run(code=-9)
    (recipe.folder / "go").touch()
    assert recipe.log() == [
        "last " if where == "before" else "last new",
        *(["new"] if where == "after" else []),
    ]


def test_times_include_interrupted_tries(recipe: Recipe) -> None:
    recipe.edit('echo numbers >> "$exp/left"', "[ -e go ] || { sleep 1.5; exit 1; }")
    recipe.run(code=1)
    recipe.run(code=1)
    (recipe.folder / "go").touch()
    recipe.run()
    times = [json.loads(line) for line in (recipe.folder / "exp/times.jsonl").read_text().splitlines()]
    assert times[-1]["stage"] == "last" and times[-1]["seconds"] >= 2


def test_a_recipe_may_use_any_name_for_its_variables(recipe: Recipe) -> None:
    names = [
        "name",
        "index",
        "key",
        "label",
        "start",
        "status",
        "force",
        "function",
        "text",
        "word",
        "number",
    ]
    recipe.edit("count=5;", " ".join(f"{name}=mine" for name in names) + "; count=5;")
    recipe.edit("note last ", "note last " + " ".join(f"${name}" for name in names) + " ")
    assert recipe.log("last")[0].split() == ["last", *["mine"] * len(names)]
    assert recipe.ran("last") == []
    recipe.edit("word=mine", "word=yours")
    assert recipe.ran("last") == ["last"]


def test_failing_stage_stops_with_its_code_and_says_how_to_go_on(recipe: Recipe) -> None:
    recipe.edit(
        '"$exp/numbers" > "$exp/sum"', '"$exp/numbers" > "$exp/sum"\n  (exit 7)\n  touch "$exp/not-reached"'
    )
    text = recipe.run("--stage", "1", code=7)
    assert "stage 2/3 add-up: stopped with exit code 7" in text
    assert text.endswith("to go on from here: run.sh --stage 1\n")
    assert not (recipe.folder / "exp/not-reached").exists()
    recipe.edit("(exit 7)", ":")
    assert recipe.ran() == ["add-up", "last"]


@pytest.mark.parametrize("bad", ["false | cat", 'echo "$unset_name"', "no-such-command"])
def test_stages_are_strict(recipe: Recipe, bad: str) -> None:
    recipe.edit("last() {", f'last() {{ {bad}; touch "$exp/not-reached";')
    assert "stopped with exit code" in recipe.run(code={"false | cat": 1, "no-such-command": 127}.get(bad, 1))
    assert not (recipe.folder / "exp/not-reached").exists()


def test_killed_stage_is_run_again(recipe: Recipe) -> None:
    recipe.edit("last() {", "last() { [ -e go ] || kill -9 $$ $BASHPID;")
    recipe.run(code=-9)
    (recipe.folder / "go").touch()
    assert recipe.ran() == ["last"]


def test_help_lists_the_stages_and_runs_nothing(recipe: Recipe) -> None:
    text = recipe.run("--help", "--quick")
    assert text.startswith("Counts to a number.\nA second line of help.\n\nusage:")
    assert "   2  add-up           adds them up\n" in text
    assert not (recipe.folder / "exp").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage"], "--stage: expected a stage number or name after it"),
        (["--stage", "4"], "--stage 4: no such stage; expected 1 to 3 or one of: numbers add-up last"),
        (["nubmers"], "argument nubmers: no such stage"),
        (["--fast"], "--fast: unknown option; expected --quick"),
        (
            ["add-up"],
            "exp/numbers: no such file, needed by stage add-up; run the stages before it, with --force",
        ),
    ],
)
def test_mistakes_get_one_line(recipe: Recipe, arguments: list[str], message: str) -> None:
    text = recipe.run(*arguments, code=2)
    assert message in text
    assert text.count("\n") == 1


def test_every_recipe_explains_itself(root: Path) -> None:
    for script in root.glob("egs/**/run.sh"):
        run = subprocess.run(["bash", script, "--help"], capture_output=True, text=True, cwd="/")
        assert run.returncode == 0 and not run.stderr, run.stderr
        assert not run.stdout.startswith("\n"), f"{script}: no comment on what it does"
        assert "\nstages:\n   1  " in run.stdout


def test_relative_folders_are_meant_from_where_the_user_stands(recipe: Recipe) -> None:
    (recipe.folder / "elsewhere").mkdir()
    recipe.run(TOOLKIT_EXP="elsewhere/exp")
    assert (recipe.folder / "elsewhere/exp/sum").exists()


def environment(root: Path, call: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", f'root="{root}"; . "$root/tools/environment.sh"; {call}'],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tests do not run in a virtual environment")
def test_a_complete_environment_is_used_without_pip(root: Path) -> None:
    # An index that does not exist: any call of pip would fail.
    run = environment(
        root, "make_environment mini test", TOOLKIT_VENV=sys.prefix, PIP_INDEX_URL="file:///nowhere"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"Using the environment {sys.prefix}; it has all that is needed.\n"


def test_a_recipe_uses_the_environment_that_is_named(root: Path, tmp_path: Path) -> None:
    run = environment(root, "use_environment && command -v python", TOOLKIT_VENV=str(tmp_path / "venv"))
    assert run.returncode == 2 and str(tmp_path / "venv") in run.stderr and run.stderr.count("\n") == 1
    run = environment(
        root, "use_environment && command -v python", TOOLKIT_VENV=sys.prefix, PATH="/usr/bin:/bin"
    )
    assert run.stdout == f"{sys.prefix}/bin/python\n", run.stderr


def test_without_python_one_line_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    run = environment(
        root, "make_environment mini", TOOLKIT_VENV=str(tmp_path / "venv"), PYTHON="no-such-python"
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: no Python 3.10 to 3.13 found") and run.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_python_without_venv_is_named(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "debian-python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    run = environment(root, "make_environment mini", TOOLKIT_VENV=str(tmp_path / "venv"), PYTHON=str(python))
    assert run.returncode == 2
    assert "has no venv module" in run.stderr and "python3-venv" in run.stderr and run.stderr.count("\n") == 1


def test_too_little_disk_is_said_first(root: Path, tmp_path: Path) -> None:
    run = environment(root, f'enough_space "{tmp_path}" 1000000')
    assert run.returncode == 2
    assert "GB (1000000 needed)" in run.stdout
    assert "GB free, 1000000 needed" in run.stderr


def test_a_folder_that_is_no_environment_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    run = environment(root, "make_environment mini", TOOLKIT_VENV=str(tmp_path))
    assert run.returncode == 2
    assert "is no working Python environment with pip" in run.stderr and run.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

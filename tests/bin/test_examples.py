"""The commands that help texts and documents show can be copied: each is understood by its own parser."""

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from toolkit import config
from toolkit.bench.loading import loader_task
from toolkit.bench.pretraining import make_task
from toolkit.tasks import task_class
from toolkit.tasks.searches import read_searches
from toolkit.tasks.streams import read_streaming

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    path.stem for path in (ROOT / "toolkit" / "bin").glob("*.py") if not path.name.startswith("_")
)
COMMAND = re.compile(r"(?:python|torchrun\b.*?) -m toolkit\.bin\.(\w+)(.*)")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    module = import_module(f"toolkit.bin.{name}")
    return module.parser()


def epilogs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The texts below the options, of a command and of its own commands."""
    yield (parser.epilog or "").replace("%(prog)s", parser.prog)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from epilogs(part)


def joined(text: str) -> list[str]:
    """Its lines, joined where one ends in a backslash."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def help_examples() -> Iterator[str]:
    """The indented lines that start a program; what is indented by four must be such a line."""
    for name in COMMANDS:
        for epilog in epilogs(parser_of(name)):
            for line in joined(epilog):
                if line.startswith("    ") or re.match(r"  (python|torchrun) ", line):
                    yield line.strip()


def document_examples() -> Iterator[str]:
    """The commands of the toolkit among the documents' blocks for a shell."""
    for name in ("README.md", "docs/pretrained.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield from (line.strip() for line in joined(block) if "toolkit.bin" in line)


@pytest.mark.parametrize("example", [*help_examples(), *document_examples()])
def test_example(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = COMMAND.fullmatch(example)
    assert found, "no command"
    name, arguments = found[1], shlex.split(found[2], comments=True)
    assert "..." not in arguments
    parser = parser_of(name)
    if name == "train":
        check_train(*parser.parse_known_args(arguments))
    elif name == "bench":
        check_bench(*parser.parse_known_args(arguments))
    elif name == "decode":
        check_decode(*parser.parse_known_args(arguments))
    else:
        parser.parse_args(arguments)


def check_train(args: argparse.Namespace, overrides: list[str]) -> None:
    """Training needs a folder, and settings that its task has."""
    assert args.exp or args.print_config
    raw = config.apply_overrides(config.read_yaml(args.config), overrides)
    config.build(task_class(raw["task"], args.config).Config, raw, args.config)


def check_decode(args: argparse.Namespace, overrides: list[str]) -> None:
    """Searches have to be known, files of them to be there, and settings to be theirs."""
    of_streaming = [text for text in overrides if text.startswith("--streaming.")]
    of_searches = [text for text in overrides if text not in of_streaming]
    assert args.streaming or not of_streaming
    assert read_streaming(of_streaming)
    assert args.searches or not of_searches
    if args.searches:
        assert read_searches(args.searches, of_searches)


def check_bench(args: argparse.Namespace, overrides: list[str]) -> None:
    """Models have to be known, and settings to be those of pretraining."""
    if args.what == "ssl":
        assert [make_task(model, overrides) for model in {*args.models, *args.peers}]
    elif args.what == "loader":
        assert loader_task(args.cuts, overrides)
    else:
        assert not overrides


def test_every_command_shows_examples() -> None:
    shown = {COMMAND.fullmatch(example)[1] for example in help_examples()}
    assert shown == set(COMMANDS)

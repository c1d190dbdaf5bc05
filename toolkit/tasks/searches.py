"""Which searches a recogniser is to do: a name, or a file that lists several with their settings.

A file has a key for each search, under which `name` says which kind it is and the rest are its settings::

    greedy: {name: greedy}
    beam_lm: {name: modified_beam, beam: 8, fusion: {ngram: exp/lm/4gram.arpa, ngram_scale: 0.3}}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit import config
from toolkit.decode.registry import SEARCHES
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel


def read_searches(named: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of each search by its name, which is that of the folder for its results.

    Args:
        named: a name of `SEARCHES`, or a YAML file.
        overrides: settings such as "--searches.beam_lm.beam=4".

    Raises:
        UserError: no such search, file or setting.
    """
    raw: dict[str, Any] = _read(named) if is_file(named) else {named: {"name": named}}
    raw = config.apply_overrides({"searches": raw}, overrides)
    if unknown := sorted(set(raw) - {"searches"}):
        raise UserError(
            f"command line: found --{unknown[0]}, expected settings such as --searches.NAME.beam=4"
        )
    return {name: _build(section, name, named) for name, section in raw["searches"].items()}


def simplest(model: AsrModel) -> str:
    """The name of the greedy search that a model can do."""
    return "greedy" if model.transducer is not None else "ctc_greedy"


def is_file(named: str | None) -> bool:
    """Whether that is a file of searches, rather than the name of one or nothing; UserError if it is none of these."""
    if named is None or named in SEARCHES:
        return False
    if not Path(named).suffix:
        raise UserError(f"--searches: found {named!r}, expected a YAML file or one of: {', '.join(SEARCHES)}")
    return True


def _read(path: str) -> dict[str, Any]:
    found = config.read_yaml(path)
    if not found:
        raise UserError(f"{path}: found no search, expected a key for each of them")
    return found


def _build(section: Any, name: str, source: str) -> Any:
    where = f"{source}: {name}"
    kind = section.get("name") if isinstance(section, dict) else None
    if kind not in SEARCHES:
        raise UserError(f"{where}: name: found {kind!r}, expected one of: {', '.join(SEARCHES)}")
    if not name or "/" in name or name.startswith("."):
        raise UserError(
            f"{where}: found a name that cannot be that of a folder, expected letters, digits and _"
        )
    return config.build(SEARCHES[kind].Config, section, where)

"""A description made from what lies in a folder, for experiments without one of their own.

Found by name: `metrics.jsonl` (curves), JSON files with a "metric" (results, error rates, label quality),
`times.jsonl`, and folders with `trials` and `scores` (DET), `ref.rttm` and `hyp.rttm` (timeline), `hyp.ctm`
and `cuts.jsonl.gz` (alignment). The files do not tell what recordings they are about, so the
table says "not stated".
"""

from collections.abc import Iterable
from pathlib import Path

from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.report import description
from toolkit.report.curves import values_of
from toolkit.report.description import Description, Result, Section
from toolkit.report.reading import kind_of, read_log
from toolkit.report.results import GROUPS


def discover(exp: Path) -> Description:
    """Describes what lies below an experiment folder.

    Raises:
        UserError: there is nothing that a report could show, or a damaged file.
    """
    figures = _figure_files(exp)
    results = [Result(name=name, file=file) for files in figures.values() for name, file in files.items()]
    sections: list[Section] = [*_curves(exp)]
    if figures["quality"]:
        sections.append(description.Quality(kind="quality", iterations=figures["quality"]))
    if figures["wer"]:
        sections.append(description.ErrorRates(kind="wer", systems=figures["wer"]))
    sections += _alignments(exp)
    if scores := {_name(path, exp): _relative(path, exp) for path in _pairs(exp, "scores", "trials")}:
        trials = {name: str(Path(path).with_name("trials")) for name, path in scores.items()}
        sections.append(description.Det(kind="det", scores=scores, trials=trials))
    for path in _pairs(exp, "hyp.rttm", "ref.rttm"):
        files = _relative(path.with_name("ref.rttm"), exp), _relative(path, exp)
        title = f"Diarization: {_name(path, exp)}"
        timeline = description.Timeline(kind="timeline", title=title, reference=files[0], hypothesis=files[1])
        sections.append(timeline)
    if (exp / "times.jsonl").is_file():
        results.append(Result(name=exp.name, file="times.jsonl"))
        sections.append(description.Times(kind="times"))
    if not sections and not results:
        raise UserError(f"{exp}: nothing to report, expected metrics.jsonl or what `score --json` wrote")
    return Description(title=exp.resolve().name, results=results, sections=sections)


def _figure_files(exp: Path) -> dict[str, dict[str, str]]:
    """Kind -> name -> file, for the JSON files with figures."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in GROUPS}
    for path in sorted(exp.rglob("*.json")):
        if (kind := kind_of(read_json(path))) in found:
            found[kind][_name(path, exp)] = _relative(path, exp)
    return found


def _curves(exp: Path) -> Iterable[Section]:
    """One section for all runs with the same statistics: these are runs of the same task."""
    tasks: dict[tuple[str, ...], dict[str, str]] = {}
    for path in sorted(exp.rglob("metrics.jsonl")):
        values = values_of({"": read_log(path)})
        tasks.setdefault(tuple(values), {})[_name(path, exp)] = _relative(path, exp)
    for runs in tasks.values():
        yield description.Curves(kind="curves", title=f"Training: {', '.join(runs)}", runs=runs)


def _alignments(exp: Path) -> Iterable[Section]:
    for path in _pairs(exp, "hyp.ctm", "cuts.jsonl.gz"):
        cuts = _relative(path.with_name("cuts.jsonl.gz"), exp)
        title = f"Alignment: {_name(path, exp)}"
        yield description.Alignment(kind="alignment", title=title, cuts=cuts, ctm=_relative(path, exp))


def _pairs(exp: Path, name: str, other: str) -> list[Path]:
    """Files of one name with a file of the other name beside them."""
    return [path for path in sorted(exp.rglob(name)) if path.with_name(other).is_file()]


def _relative(path: Path, exp: Path) -> str:
    return path.relative_to(exp).as_posix()


def _name(path: Path, exp: Path) -> str:
    """The folder below the experiment, and the file's own name where it says more than the folder's."""
    folder = path.parent.relative_to(exp).as_posix()
    plain = path.stem in ("metrics", "RESULTS", "scores", "hyp")
    if folder == ".":
        return exp.resolve().name if plain else path.stem
    return folder if plain else f"{folder}/{path.stem}"

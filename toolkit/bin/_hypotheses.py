"""What `decode` writes: hypotheses and times, and their errors where transcripts are known."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.files import atomic_write

if TYPE_CHECKING:
    from toolkit.score.wer import WerResult
    from toolkit.tasks.recognize import Reading


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file at once or not at all."""
    with atomic_write(path) as file:
        file.writelines(f"{line}\n" for line in lines)


def write_readings(folder: Path, readings: Mapping[str, list["Reading"]]) -> None:
    """Writes text, words.ctm, tokens.ctm and, where there are several readings of a recording, nbest.jsonl.

    Args:
        folder: where to.
        readings: recording -> what was found in it, best first.
    """
    import json

    from toolkit.decode.formats import ctm_line

    best = {name: found[0] for name, found in readings.items()}
    write_lines(folder / "text", (f"{name} {reading.text}".rstrip() for name, reading in best.items()))
    for kind in ("words", "tokens"):
        rows = ((name, word) for name, reading in best.items() for word in getattr(reading, kind))
        write_lines(folder / f"{kind}.ctm", (ctm_line(name, word) for name, word in rows))
    if any(len(found) > 1 for found in readings.values()):
        rows = (
            (name, rank, reading) for name, found in readings.items() for rank, reading in enumerate(found, 1)
        )
        write_lines(
            folder / "nbest.jsonl",
            (
                json.dumps(
                    {"id": name, "rank": rank, "score": reading.score, "text": reading.text},
                    ensure_ascii=False,
                )
                for name, rank, reading in rows
            ),
        )


def shown(form: str, name: str, reading: "Reading") -> str:
    """A recording's words as text (a line with its name), json, srt, vtt or textgrid."""
    from toolkit.decode import formats

    if form == "text":
        return f"{name}\t{reading.text}"
    if form == "json":
        return formats.json_line(name, reading.text, reading.words, reading.tokens)
    if form == "textgrid":
        return formats.textgrid(reading.words, reading.tokens)
    return {"srt": formats.srt, "vtt": formats.vtt}[form](reading.words)


def write_shown(folder: Path, readings: Mapping[str, list["Reading"]], form: str) -> None:
    """Writes a file for each recording, named after it."""
    suffix = "TextGrid" if form == "textgrid" else form
    for name, found in readings.items():
        with atomic_write(folder / f"{name.replace('/', '_')}.{suffix}") as file:
            file.write(shown(form, name, found[0]).rstrip("\n") + "\n")


def write_errors(
    folder: Path, readings: Mapping[str, list["Reading"]], texts: Mapping[str, str]
) -> "WerResult | None":
    """Writes recogs.txt and errs.txt in icefall's form, for recordings whose transcripts are known; None if none is.

    Where a writing puts no spaces between words, each character counts as one.

    Args:
        folder: where to.
        readings: recording -> what was found in it, best first.
        texts: recording -> what is said in it.
    """
    from toolkit.decode.formats import separated
    from toolkit.score import icefall, wer

    known = {name: separated(texts[name]) for name in readings if texts.get(name, "").strip()}
    if not known:
        return None
    found = {name: separated(readings[name][0].text) for name in known}
    result = wer.score(known, found, replications=0)
    write_lines(folder / "recogs.txt", icefall.recogs(result))
    write_lines(folder / "errs.txt", icefall.errs(result))
    return result

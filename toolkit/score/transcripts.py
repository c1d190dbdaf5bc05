"""Reading transcripts in the usual formats.

Untimed formats give one text for each utterance id: Kaldi `text`, trn, Lhotse cuts and supervisions.
Timed ones give pieces of a recording: STM (segments) and CTM (words).
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.score.errors import ScoreError
from toolkit.score.formats import malformed, read_lines, to_interval

SUFFIXES = {".txt": "text", ".trn": "trn", ".stm": "stm", ".ctm": "ctm", ".jsonl": "cuts"}
IGNORED = "ignore_time_segment_in_scoring"
TRN = re.compile(r"(.*?)\(([^()\s]+)\)")
CHANNEL = re.compile(r"[A-Za-z0-9]")
TIME = re.compile(r"\d+(\.\d*)?|\.\d+")
LABELLED = re.compile(r"(?:(<[^<>\s]+>)(?: |$))?(.*)")


class Utterance(NamedTuple):
    """One untimed transcript; its text is None where a manifest gives none, "" where nothing is said."""

    text: str | None
    speaker: str | None
    line: int


class Piece(NamedTuple):
    """A stretch of a recording with its words: an STM segment or a CTM word; times in seconds."""

    recording: str
    channel: str
    start: float
    end: float
    text: str
    speaker: str | None
    line: int

    @property
    def ignored(self) -> bool:
        return self.text.lower() == IGNORED


@dataclass
class Transcripts:
    """What one file holds: `utterances` (untimed formats) or `pieces` (timed formats).

    `guessed` says that the format was told by the content.
    """

    path: Path
    format: str
    guessed: bool = False
    utterances: dict[str, Utterance] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        return self.format in ("stm", "ctm")

    def add(self, name: str, utterance: Utterance) -> None:
        """Adds an utterance; its id must be new."""
        if name in self.utterances:
            found = f"{name} again (first on line {self.utterances[name].line})"
            raise malformed(self.path, utterance.line, found, "every utterance id once")
        self.utterances[name] = utterance


def read_transcripts(path: str | Path, format: str | None = None) -> Transcripts:
    """Reads a file of transcripts.

    Args:
        path: the file, plain or ".gz".
        format: a key of `READERS`; None: by the name of the file, else by its first lines.

    Raises:
        ScoreError: for a malformed line, with file and line.
    """
    path = Path(path)
    named = format or _format_of_name(path)
    format = named or _format_of_content(path)
    if format not in READERS:
        raise ScoreError(f"found the transcript format {format!r}, expected one of {', '.join(READERS)}")
    transcripts = Transcripts(path, format, guessed=not named)
    for line, text in read_lines(path):
        if not (transcripts.timed and text.startswith(";;")):
            READERS[format](transcripts, line, text)
    if format == "stm":
        transcripts.pieces = _without_labels(transcripts.pieces)
    return transcripts


def _format_of_name(path: Path) -> str | None:
    """The format that a file's name tells; None for other names."""
    name = path.name.removesuffix(".gz")
    return "text" if name == "text" else SUFFIXES.get(Path(name).suffix)


def _format_of_content(path: Path) -> str:
    """The format that the first lines of a file look like."""
    sample = []
    for _, text in read_lines(path):
        if not text.startswith(";;"):
            sample.append(text)
        if len(sample) == 20:
            break
    if sample and all(text.startswith("{") and text.endswith("}") for text in sample):
        return "cuts"
    if sample and all(TRN.fullmatch(text) for text in sample):
        return "trn"
    if sample and all(_has_times(text.split(), 3) for text in sample):
        return "stm"
    if sample and all(_has_times(text.split(), 2) for text in sample):
        return "ctm"
    return "text"


def _has_times(fields: list[str], first: int) -> bool:
    """Whether the fields begin as a timed line does: recording, channel of one character, ..., two times."""
    if len(fields) < 5 or not CHANNEL.fullmatch(fields[1]):
        return False
    times = fields[first : first + 2]
    # Whole numbers alone may be the words of a text.
    return all(TIME.fullmatch(time) for time in times) and "." in "".join(times)


def _read_text(transcripts: Transcripts, line: int, text: str) -> None:
    name, *words = text.split()
    transcripts.add(name, Utterance(" ".join(words), None, line))


def _read_trn(transcripts: Transcripts, line: int, text: str) -> None:
    match = TRN.fullmatch(text)
    if not match:
        raise malformed(transcripts.path, line, text, "`words (utterance-id)`")
    words, name = match.groups()
    transcripts.add(name, Utterance(_plain(words, transcripts.path, line), None, line))


def _read_stm(transcripts: Transcripts, line: int, text: str) -> None:
    fields = text.split()
    if len(fields) < 5:
        expected = "`recording channel speaker start end [<label>] words`"
        raise malformed(transcripts.path, line, text, expected)
    start, end = to_interval(fields[3], fields[4], transcripts.path, line, length=False)
    words = _plain(" ".join(fields[5:]), transcripts.path, line)
    transcripts.pieces.append(Piece(fields[0], fields[1], start, end, words, fields[2], line))


def _without_labels(pieces: list[Piece]) -> list[Piece]:
    """Segments of an STM without their labels.

    `<o,f0>` is a label wherever a segment begins with it. `<o>` may as well be a word, such as `<unk>`: it is
    a label where every segment with words begins with one.
    """
    parts = [LABELLED.fullmatch(piece.text).groups("") for piece in pieces]
    column = all(label for label, words in parts if words and words.lower() != IGNORED)
    return [
        piece._replace(text=words) if column or "," in label else piece
        for piece, (label, words) in zip(pieces, parts, strict=True)
    ]


def _read_ctm(transcripts: Transcripts, line: int, text: str) -> None:
    fields = text.split()
    if len(fields) not in (5, 6) or fields[2] == "*":
        expected = "`recording channel start duration word [confidence]` (alternatives are not supported)"
        raise malformed(transcripts.path, line, text, expected)
    start, end = to_interval(fields[2], fields[3], transcripts.path, line, length=True)
    transcripts.pieces.append(Piece(fields[0], fields[1], start, end, fields[4], None, line))


def _plain(words: str, path: Path, line: int) -> str:
    """Words of a NIST format; alternatives are refused, not scored as if they were words."""
    if "{" in words.split():
        raise malformed(path, line, words, "plain words (alternatives `{ a / b }` are not supported)")
    return " ".join(words.split())


def _read_cuts(transcripts: Transcripts, line: int, text: str) -> None:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise malformed(transcripts.path, line, text, f"a JSON object ({error.msg})") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise malformed(transcripts.path, line, text, 'a cut or a supervision with an "id"')
    is_cut = "supervisions" in row or "tracks" in row
    try:
        parts = sorted(_supervisions(row, 0.0), key=lambda part: part[0]) if is_cut else [(0.0, row)]
    except (TypeError, KeyError, AttributeError):
        raise malformed(transcripts.path, line, text, "supervisions with start, text and speaker") from None
    texts = [supervision.get("text") for _, supervision in parts]
    if all(words is None for words in texts):
        transcribed = None
    elif all(isinstance(words, str) for words in texts):
        transcribed = " ".join(" ".join(texts).split())
    else:
        raise malformed(transcripts.path, line, row["id"], "a text in every supervision or in none")
    speakers = {supervision.get("speaker") for _, supervision in parts}
    speaker = speakers.pop() if len(speakers) == 1 else None
    transcripts.add(row["id"], Utterance(transcribed, speaker, line))


def _supervisions(cut: dict[str, Any], offset: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """(start in the outer cut, supervision) of a Lhotse cut; a MixedCut holds others, each with an offset."""
    for supervision in cut.get("supervisions", ()):
        yield offset + supervision["start"], supervision
    for track in cut.get("tracks", ()):
        yield from _supervisions(track["cut"], offset + track.get("offset", 0.0))


READERS: dict[str, Callable[[Transcripts, int, str], None]] = {
    "text": _read_text,
    "trn": _read_trn,
    "stm": _read_stm,
    "ctm": _read_ctm,
    "cuts": _read_cuts,
}


def read_utt2spk(path: str | Path) -> dict[str, str]:
    """Reads Kaldi's `utt2spk`: `utterance speaker` a line."""
    speakers: dict[str, str] = {}
    for line, text in read_lines(path):
        fields = text.split()
        if len(fields) != 2:
            raise malformed(path, line, text, "`utterance speaker`")
        if fields[0] in speakers:
            raise malformed(path, line, f"{fields[0]} again", "every utterance once")
        speakers[fields[0]] = fields[1]
    return speakers

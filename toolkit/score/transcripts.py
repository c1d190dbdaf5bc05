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

IGNORED = "ignore_time_segment_in_scoring"
TRN = re.compile(r"(.*?)\(([^()\s]+)\)")
CHANNEL = re.compile(r"[A-Za-z0-9]")


class Utterance(NamedTuple):
    """One untimed transcript."""

    text: str
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
    """What one file holds: `utterances` (untimed formats) or `pieces` (timed formats)."""

    path: Path
    format: str
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
        format: a key of `READERS`; None: by the file name's extension, else by the first lines.

    Raises:
        ScoreError: for a malformed line, with file and line.
    """
    path = Path(path)
    format = format or detect_format(path)
    if format not in READERS:
        raise ScoreError(f"found the transcript format {format!r}, expected one of {', '.join(READERS)}")
    transcripts = Transcripts(path, format)
    for line, text in read_lines(path):
        if not (transcripts.timed and text.startswith(";;")):
            READERS[format](transcripts, line, text)
    return transcripts


def detect_format(path: Path) -> str:
    """The format of a file, by extension (.trn, .stm, .ctm, .jsonl) or else by its first lines."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.removeprefix(".")
    if suffix in ("trn", "stm", "ctm"):
        return suffix
    if suffix == "jsonl":
        return "cuts"
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
    return all(re.fullmatch(r"\d+(\.\d*)?|\.\d+", time) for time in fields[first : first + 2])


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
    labelled = len(fields) > 5 and re.fullmatch(r"<[^<>]*,[^<>]*>", fields[5])
    words = _plain(" ".join(fields[6 if labelled else 5 :]), transcripts.path, line)
    transcripts.pieces.append(Piece(fields[0], fields[1], start, end, words, fields[2], line))


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
    if not parts or not all(isinstance(words, str) for words in texts):
        raise malformed(transcripts.path, line, row["id"], "a text in every supervision")
    speakers = {supervision.get("speaker") for _, supervision in parts}
    speaker = speakers.pop() if len(speakers) == 1 else None
    transcripts.add(row["id"], Utterance(" ".join(" ".join(texts).split()), speaker, line))


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

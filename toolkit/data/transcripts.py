"""Lists of transcripts: Kaldi `text`, TSV and CSV."""

import csv
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from toolkit.errors import UserError

COLUMNS = {
    "path": {"path", "file", "filename", "file_name", "audio", "wav", "id"},
    "text": {"text", "transcript", "transcription", "sentence"},
    "speaker": {"speaker", "speaker_id", "spk", "client_id"},
}
"""Names that a header line may give to the columns."""


class Transcript(NamedTuple):
    """What is said in a file, and by whom if that is known."""

    text: str
    speaker: str | None


class Transcripts:
    """A list of transcripts on disk, looked up by the path, the id or the name of a recording.

    Args:
        path: a `.tsv` file (path<TAB>text[<TAB>speaker]) or a `.csv` file, with or without a header line, or
            any other name for Kaldi's format (id text).
        folder: what absolute paths in the list are made relative to.

    Raises:
        UserError: with file and line, if a line is malformed or names a recording for the second time.
    """

    def __init__(self, path: str | Path, folder: str | Path):
        self.path = Path(path)
        self._folder = Path(folder).absolute()
        # SQLite keeps a private temporary database on disk once it is large.
        self._base = sqlite3.connect("")
        self._base.execute("CREATE TABLE rows (name TEXT PRIMARY KEY, text, speaker, line, used)")
        for number, name, text, speaker in self._read():
            try:
                self._base.execute(
                    "INSERT INTO rows VALUES (?, ?, ?, ?, NULL)", (name, text, speaker, number)
                )
            except sqlite3.IntegrityError:
                raise UserError(f"{self.path}:{number}: {name!r} was given a transcript before") from None

    def _read(self) -> Iterator[tuple[int, str, str, str | None]]:
        delimiter = {".tsv": "\t", ".csv": ","}.get(self.path.suffix.lower())
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                yield from self._read_kaldi(file) if delimiter is None else self._read_table(file, delimiter)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 text ({error.reason} at byte {error.start})") from None

    def _read_kaldi(self, lines: Iterable[str]) -> Iterator[tuple[int, str, str, None]]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                name, *text = line.split(maxsplit=1)
                yield number, name, text[0].strip() if text else "", None

    def _read_table(self, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, str, str, str | None]]:
        # Tab-separated lists seldom mean quotation marks as such.
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
        places = {"path": 0, "text": 1, "speaker": 2}
        for row in reader:
            if reader.line_num == 1 and (header := _header(row)):
                places = header
                continue
            if not any(row):
                continue
            if len(row) <= max(places["path"], places["text"]):
                expected = "path<TAB>text[<TAB>speaker]" if delimiter == "\t" else "path,text[,speaker]"
                raise UserError(
                    f"{self.path}:{reader.line_num}: found {len(row)} column(s), expected {expected}"
                )
            speaker = row[places["speaker"]].strip() if places.get("speaker", len(row)) < len(row) else ""
            yield (
                reader.line_num,
                self._relative(row[places["path"]].strip()),
                row[places["text"]],
                speaker or None,
            )

    def _relative(self, name: str) -> str:
        path = Path(name)
        return (
            path.relative_to(self._folder).as_posix()
            if path.is_relative_to(self._folder)
            else path.as_posix()
        )

    def find(self, path: str, name: str) -> Transcript | None:
        """Looks up a recording.

        Args:
            path: of the file, relative to the folder.
            name: id of the recording.

        Raises:
            UserError: if the line found was already used for another file.
        """
        pure = PurePosixPath(path)
        for key in dict.fromkeys((path, pure.with_suffix("").as_posix(), name, pure.name, pure.stem)):
            query = "SELECT text, speaker, line, used FROM rows WHERE name = ?"
            row = self._base.execute(query, (key,)).fetchone()
            if row is None:
                continue
            text, speaker, line, used = row
            if used not in (None, path):
                raise UserError(
                    f"{self.path}:{line}: {key!r} stands for {used} and for {path}; give their paths"
                )
            self._base.execute("UPDATE rows SET used = ? WHERE name = ?", (path, key))
            return Transcript(text, speaker)
        return None

    def unused(self, limit: int = 3) -> tuple[int, list[str]]:
        """How many lines name no file so far, and some of the names."""
        count = self._base.execute("SELECT count(*) FROM rows WHERE used IS NULL").fetchone()[0]
        rows = self._base.execute("SELECT name FROM rows WHERE used IS NULL ORDER BY line LIMIT ?", (limit,))
        return count, [name for (name,) in rows]


def _header(row: list[str]) -> dict[str, int] | None:
    """Where the columns are, if this is a header line."""
    names = [name.strip().lower() for name in row]
    places = {}
    for column, known in COLUMNS.items():
        for place, name in enumerate(names):
            if name in known:
                places.setdefault(column, place)
    return places if "path" in places and "text" in places else None

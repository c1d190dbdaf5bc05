"""From a folder of audio to cuts: find, probe, convert where needed, pair with transcripts.

What was found out about each file is kept in `index.sqlite` in the output folder. So memory does not grow
with the number of files, and an interrupted command goes on where it stopped.
"""

import math
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from toolkit.data.codecs import COMPRESSED, LOSSLESS, SAMPLE_RATE, BadAudio, decode, read_header, to_flac
from toolkit.data.levels import Limits, Meter
from toolkit.data.manifests import mono_cut
from toolkit.data.transcripts import Transcript, Transcripts
from toolkit.data.validate import SeenIds, ordered_map
from toolkit.errors import UserError
from toolkit.progress import progress
from toolkit.text.normalize import normalize

if TYPE_CHECKING:
    from lhotse import MonoCut


@dataclass
class FolderConfig:
    """How a folder becomes cuts."""

    channel: int | None = None
    """Which channel to take; None takes the mean of all."""
    decode: bool = True
    """Decode every file to check its samples, even where it need not be converted."""
    max_duration: float = 30.0
    """Longest cut in seconds. Files without transcript are cut into equal parts, others are skipped."""
    min_duration: float = 0.1
    """Shortest cut in seconds."""
    speaker_from_folder: bool = False
    """The first folder below the given one names the speaker."""
    language: str | None = None
    """ISO 639-1 code of all that is said."""
    keep_text: bool = False
    """Leave transcripts as written; otherwise they are normalised."""
    limits: Limits = field(default_factory=Limits)
    """What samples are refused for."""
    num_threads: int = 4
    """Files probed at a time."""

    def __post_init__(self) -> None:
        if self.channel is not None and self.channel < 0:
            raise UserError(f"channel: found {self.channel}, expected a number from 0")
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(
                f"min-duration and max-duration: found {self.min_duration:g} and {self.max_duration:g} s, "
                "expected 0 <= min-duration < max-duration"
            )


class Probe(NamedTuple):
    """What was found out about a file."""

    path: str
    """Relative to the folder."""
    size: int
    changed: int
    """Time of the last change, in nanoseconds."""
    audio: str | None = None
    """The file to read: the original, or the FLAC file made of it."""
    num_samples: int = 0
    sampling_rate: int = 0
    """Of the original."""
    num_channels: int = 0
    """Of the original."""
    reason: str | None = None
    """Why it cannot be used."""


@dataclass
class Summary:
    """What became of a folder."""

    num_files: int = 0
    num_used: int = 0
    converted: Counter = field(default_factory=Counter)
    """Files converted, by what they were."""

    def add(self, file: Probe, folder: Path) -> None:
        """Counts a file that is used."""
        self.num_used += 1
        if file.audio != str((folder / file.path).absolute()):
            channels = f", {file.num_channels} channels" if file.num_channels > 1 else ""
            self.converted[
                f"{PurePosixPath(file.path).suffix[1:].lower()} {file.sampling_rate} Hz{channels}"
            ] += 1


def walk(folder: Path, leave_out: Path) -> Iterator[Probe]:
    """Yields the files that are audio by name, in a fixed order, not probed yet.

    Hidden files and folders are passed over, as is `leave_out`; links to folders are not followed.

    Raises:
        UserError: if there is no such folder, or it may not be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder}: may not be read, expected permission to")
    leave_out = leave_out.absolute()
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder.absolute(), onerror=closed.append):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if Path(parent, name) != leave_out]
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in LOSSLESS | COMPRESSED:
                yield _unprobed(Path(parent, name), folder.absolute())
    for error in closed:
        name = os.path.relpath(error.filename, folder.absolute())
        yield Probe(name, 0, 0, reason=f"unreadable: {error.strerror}")


def _unprobed(path: Path, folder: Path) -> Probe:
    name = path.relative_to(folder).as_posix()
    readable = os.fsencode(name).decode("utf-8", "backslashreplace")
    try:
        found = path.stat()
    except OSError:
        # A link may lead nowhere; reading it will tell.
        return Probe(readable, 0, 0)
    reason = None if readable == name else "unreadable name: not UTF-8"
    return Probe(readable, found.st_size, found.st_mtime_ns, reason=reason)


def probe(file: Probe, folder: Path, converted: Path, config: FolderConfig) -> Probe:
    """Looks into a file, decodes it if asked to, and converts what is not lossless, 16 kHz, one channel."""
    if file.reason:
        return file
    path = folder / file.path
    try:
        header = read_header(path)
        file = file._replace(sampling_rate=header.sampling_rate, num_channels=header.num_channels)
        if (
            path.suffix.lower() in LOSSLESS
            and header.sampling_rate == SAMPLE_RATE
            and header.num_channels == 1
        ):
            if config.decode:
                meter = Meter()
                for block in decode(path):
                    meter.add(block)
                if problem := meter.problem(config.limits):
                    raise BadAudio(path, problem)
            return file._replace(audio=str(path.absolute()), num_samples=header.num_samples)
        # The whole name stays, so that a.mp3 and a.wav do not meet.
        target = converted / f"{file.path}.flac"
        num_samples = to_flac(path, target, config.channel, config.limits)
        return file._replace(audio=str(target.absolute()), num_samples=num_samples)
    except BadAudio as bad:
        return file._replace(reason=bad.reason)


class Index:
    """Probes on disk."""

    def __init__(self, path: Path, settings: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path)
        try:
            self._base.execute("CREATE TABLE IF NOT EXISTS settings (value TEXT)")
            known = self._base.execute("SELECT value FROM settings").fetchone()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: not an index of this program ({error}); remove it to start anew"
            ) from None
        if known != (settings,):
            self._base.execute("DROP TABLE IF EXISTS probes")
            self._base.execute("DELETE FROM settings")
            self._base.execute("INSERT INTO settings VALUES (?)", (settings,))
        columns = ", ".join(Probe._fields)
        self._base.execute(f"CREATE TABLE IF NOT EXISTS probes ({columns}, seen, PRIMARY KEY (path))")
        self._base.execute("UPDATE probes SET seen = 0")
        self._base.commit()

    def is_known(self, file: Probe) -> bool:
        """Whether this very file was probed before, and what was made of it exists; marks it as seen."""
        where = "path = ? AND size = ? AND changed = ?"
        key = (file.path, file.size, file.changed)
        row = self._base.execute(f"SELECT audio FROM probes WHERE {where}", key).fetchone()
        if row is None or (row[0] is not None and not os.path.exists(row[0])):
            return False
        self._base.execute(f"UPDATE probes SET seen = 1 WHERE {where}", key)
        return True

    def add(self, file: Probe) -> None:
        places = ", ".join("?" * len(Probe._fields))
        self._base.execute(f"INSERT OR REPLACE INTO probes VALUES ({places}, 1)", file)

    def save(self) -> None:
        self._base.commit()

    def probes(self) -> Iterator[Probe]:
        """Everything seen in this run, by path."""
        columns = ", ".join(Probe._fields)
        yield from map(
            Probe._make, self._base.execute(f"SELECT {columns} FROM probes WHERE seen = 1 ORDER BY path")
        )

    def close(self) -> None:
        self._base.commit()
        self._base.close()


def probe_folder(folder: Path, out: Path, config: FolderConfig) -> Index:
    """Probes what is new or has changed in a folder since the last time."""
    index = Index(
        out / "index.sqlite", f"{folder.absolute()} {config.channel} {config.decode} {config.limits}"
    )
    try:
        new = (file for file in walk(folder, out) if not index.is_known(file))
        probed = ordered_map(lambda file: probe(file, folder, out / "audio", config), new, config.num_threads)
        for number, file in enumerate(progress(probed, None, "probe"), 1):
            index.add(file)
            if number % 200 == 0:
                index.save()
    finally:
        # What is done stays done, also when the user or an error ends the run here.
        index.save()
    return index


def folder_cuts(
    index: Index,
    folder: Path,
    config: FolderConfig,
    transcripts: Transcripts | None,
    summary: Summary,
    skip: Callable[[str, str | Path, str], None],
) -> Iterator["MonoCut"]:
    """Makes the cuts of a probed folder.

    Args:
        index: the probes.
        folder: the folder they were made of.
        config: how it becomes cuts.
        transcripts: what is said; None looks for a .txt file beside each audio file.
        summary: is filled in.
        skip: takes id, path and reason of each file that cannot be used.
    """
    with closing(SeenIds()) as seen:
        for file in index.probes():
            name = recording_id(file.path)
            summary.num_files += 1
            try:
                if file.reason:
                    raise BadAudio(file.path, file.reason)
                if not seen.add(name):
                    raise BadAudio(file.path, f"duplicate id: {name} was used before")
                cuts = _cuts_of(file, name, _transcript(file, name, folder, transcripts), config)
            except BadAudio as bad:
                skip(name, folder / file.path, bad.reason)
                continue
            summary.add(file, folder)
            yield from cuts


def recording_id(path: str) -> str:
    """Id of a file: its path without suffix, fit for lists whose columns are parted by spaces."""
    return "_".join(PurePosixPath(path).with_suffix("").as_posix().replace("/", "-").split())


def _transcript(file: Probe, name: str, folder: Path, transcripts: Transcripts | None) -> Transcript | None:
    if transcripts is not None:
        return transcripts.find(file.path, name)
    beside = (folder / file.path).with_suffix(".txt")
    try:
        return Transcript(beside.read_text(encoding="utf-8-sig"), None)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadAudio(file.path, f"unreadable transcript: {beside.name} is not UTF-8 text") from None


def _cuts_of(file: Probe, name: str, transcript: Transcript | None, config: FolderConfig) -> list["MonoCut"]:
    """One cut with its text, or several without."""
    from lhotse.utils import fastcopy

    seconds = file.num_samples / SAMPLE_RATE
    if seconds < config.min_duration:
        raise BadAudio(file.path, f"too short: {seconds:.2f} s, limit {config.min_duration:g} s")
    speaker, text = transcript.speaker if transcript else None, None
    if speaker is None and config.speaker_from_folder and "/" in file.path:
        speaker = file.path.partition("/")[0]
    if transcript is not None:
        written = " ".join(transcript.text.split())
        text = written if config.keep_text else normalize(written, config.language)
        if not text:
            raise BadAudio(file.path, "empty transcript: nothing is left of it")
        if seconds > config.max_duration:
            raise BadAudio(
                file.path, f"too long: {seconds:.1f} s with a transcript, limit {config.max_duration:g} s"
            )
    cut = mono_cut(name, file.audio, file.num_samples, text=text, speaker=speaker, language=config.language)
    num_parts = math.ceil(seconds / config.max_duration)
    if num_parts == 1:
        return [cut]
    edges = [round(file.num_samples * part / num_parts) / SAMPLE_RATE for part in range(num_parts + 1)]
    parts = []
    for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        part = f"{name}-{number:04d}"
        spoken = [fastcopy(item, id=part, duration=end - start) for item in cut.supervisions]
        parts.append(fastcopy(cut, id=part, start=start, duration=end - start, supervisions=spoken))
    return parts

"""Validation at the door: which cuts can be used, and why the others cannot.

A reason reads "kind: details"; reports count kinds and `skipped.jsonl` lists every case.
"""

import json
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from toolkit.data.audio import audio_paths, check_source, load_audio
from toolkit.data.codecs import SAMPLE_RATE, BadAudio
from toolkit.data.levels import Limits, Meter
from toolkit.data.manifests import write_cuts
from toolkit.errors import UserError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from lhotse.cut import Cut

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Rules:
    """What a task asks of a cut."""

    sampling_rate: int = SAMPLE_RATE
    """Sampling rate in Hz."""
    min_duration: float = 0.1
    """Shortest cut in seconds."""
    max_duration: float = 3600.0
    """Longest cut in seconds."""
    text: bool = False
    """Every supervision needs a transcript."""
    speaker: bool = False
    """Every supervision needs a speaker."""
    overlap: bool = True
    """Supervisions may overlap."""
    limits: Limits = field(default_factory=Limits)
    """What decoded samples are refused for."""

    def __post_init__(self):
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(
                f"min_duration and max_duration: found {self.min_duration} and {self.max_duration}, "
                "expected 0 <= min_duration < max_duration"
            )


TASKS: dict[str, Rules] = {
    "ssl": Rules(),
    "asr": Rules(text=True, overlap=False),
    "speaker": Rules(speaker=True, overlap=False),
    "diarization": Rules(speaker=True),
}
"""What each task asks for."""

TOLERANCE = 0.01
"""Seconds by which a supervision may stick out, for manifests with rounded times."""


def check_cut(cut: "Cut", rules: Rules, decode: bool = False) -> str | None:
    """Judges one cut.

    Args:
        cut: the cut.
        rules: what is asked of it.
        decode: read the samples as well; otherwise only the manifest is read and the file looked up.

    Returns:
        The reason why it cannot be used, or None.
    """
    return _check_shape(cut, rules) or _check_supervisions(cut, rules) or _check_files(cut, rules, decode)


def _check_shape(cut: "Cut", rules: Rules) -> str | None:
    if not cut.has_recording:
        return "missing: the cut has no recording"
    if cut.num_channels != 1:
        return f"multi-channel: {cut.num_channels} channels, expected 1"
    if cut.sampling_rate != rules.sampling_rate:
        return f"wrong sampling rate: {cut.sampling_rate} Hz, expected {rules.sampling_rate} Hz"
    if cut.duration < rules.min_duration:
        return f"too short: {cut.duration:.2f} s, limit {rules.min_duration:g} s"
    if cut.duration > rules.max_duration:
        return f"too long: {cut.duration:.2f} s, limit {rules.max_duration:g} s"
    recording = getattr(cut, "recording", None)  # a mixed cut has several
    if recording is not None and cut.end > recording.duration + TOLERANCE:
        return f"out of range: the cut ends at {cut.end:.2f} s, its recording at {recording.duration:.2f} s"
    return None


def _check_supervisions(cut: "Cut", rules: Rules) -> str | None:
    if (rules.text or rules.speaker) and not cut.supervisions:
        return "no supervision: the task needs " + ("a transcript" if rules.text else "a speaker")
    for item in cut.supervisions:
        if item.duration <= 0 or item.start < -TOLERANCE or item.end > cut.duration + TOLERANCE:
            return (
                f"supervision out of range: {item.id} from {item.start:.2f} to {item.end:.2f} s "
                f"in a cut of {cut.duration:.2f} s"
            )
        if rules.text and not (item.text or "").strip():
            return f"empty transcript: supervision {item.id}"
        if rules.speaker and not item.speaker:
            return f"no speaker: supervision {item.id}"
    if not rules.overlap:
        ordered = sorted(cut.supervisions, key=lambda item: item.start)
        for first, second in zip(ordered, ordered[1:], strict=False):
            if second.start < first.end - TOLERANCE:
                return f"overlapping supervisions: {first.id} and {second.id}"
    return None


def _check_files(cut: "Cut", rules: Rules, decode: bool) -> str | None:
    for path in audio_paths(cut):
        if problem := check_source(cut, path) if decode else _look_up(path):
            return problem
    if not decode:
        return None
    meter = Meter()
    try:
        meter.add(load_audio(cut))
    except BadAudio as bad:
        return bad.reason
    return meter.problem(rules.limits)


def _look_up(path: str) -> str | None:
    try:
        return None if os.stat(path).st_size else "empty: the file has 0 bytes"
    except FileNotFoundError:
        return "missing: no such file"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def validate(
    cuts: Iterable["Cut"], rules: Rules, decode: bool = False, num_threads: int = 1
) -> Iterator[tuple["Cut", str | None]]:
    """Judges cuts in order, in memory that does not grow with their number.

    Args:
        cuts: the cuts; the second and later ones with the same id are refused.
        rules: what is asked of them.
        decode: read the samples as well.
        num_threads: how many cuts are judged at a time.

    Yields:
        Every cut with the reason why it cannot be used, or None.
    """
    with closing(SeenIds()) as seen:

        def judge(cut: "Cut") -> tuple["Cut", str | None]:
            return cut, check_cut(cut, rules, decode)

        for cut, reason in ordered_map(judge, cuts, num_threads):
            if not seen.add(cut.id):
                reason = f"duplicate id: {cut.id} was used before"
            yield cut, reason


def write_valid(
    judged: Iterable[tuple["Cut", str | None]], kept: str | Path | None, skipped: str | Path
) -> tuple[int, Counter]:
    """Writes the cuts that can be used, and a list of the others.

    Args:
        judged: what `validate` yields.
        kept: the manifest to write; None writes none.
        skipped: the list to write.

    Returns:
        The number of cuts kept, and the number skipped by kind of reason.
    """
    with skipped_list(skipped) as skip:

        def good() -> Iterator["Cut"]:
            for cut, reason in judged:
                if reason is None:
                    yield cut
                else:
                    skip(cut.id, next(iter(audio_paths(cut)), ""), reason)

        count = sum(1 for _ in good()) if kept is None else write_cuts(kept, good())
    return count, skip.kinds


class SkippedList:
    """Notes what cannot be used: a line {"id", "path", "reason"} each, and counts by kind of reason."""

    def __init__(self, file: IO[str]):
        self._file = file
        self.kinds: Counter = Counter()

    def __call__(self, name: str, path: str | Path, reason: str) -> None:
        self._file.write(json.dumps(skipped_row(name, path, reason), ensure_ascii=False) + "\n")
        self.kinds[kind(reason)] += 1


@contextmanager
def skipped_list(path: str | Path) -> Iterator[SkippedList]:
    """Opens such a list for writing, atomically."""
    with atomic_write(path) as file:
        yield SkippedList(file)


def skipped_row(name: str, path: str | Path, reason: str) -> dict[str, str]:
    """A line of `skipped.jsonl`."""
    return {"id": name, "path": str(path), "reason": reason}


def kind(reason: str) -> str:
    """The part of a reason that reports count."""
    return reason.partition(":")[0]


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, ahead: int = 8
) -> Iterator[Result]:
    """Maps in threads and yields in order, with at most `ahead` items a thread under way."""
    if num_threads <= 1:
        yield from map(function, items)
        return
    pending: deque = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= ahead * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class SeenIds:
    """A set of strings that lives on disk once it is large."""

    def __init__(self):
        # An empty name is a private temporary database, which SQLite spills to disk and removes when closed.
        self._base = sqlite3.connect("")
        self._base.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> bool:
        """Remembers `name`; returns whether it is new."""
        return self._base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,)).rowcount == 1

    def close(self) -> None:
        self._base.close()

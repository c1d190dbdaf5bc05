"""Manifests: Lhotse cuts as JSON lines or Shar, opened lazily and written atomically."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.data.shar import SharCuts
from toolkit.errors import UserError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut
    from lhotse.cut import Cut

CUT_TYPES = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")


def open_cuts(path: str | Path, shard_seed: int | None = None) -> "CutSet":
    """Opens a manifest lazily: at once, and with memory that does not grow with the number of cuts.

    The first line is checked here, the others as they are read.

    Args:
        path: a `.jsonl` or `.jsonl.gz` file of cuts, or a Lhotse Shar directory.
        shard_seed: of the random order in which the shards of a Shar directory are read; None for their own order.

    Returns:
        A lazy CutSet; iterating over it raises UserError with file and line where a line is damaged.

    Raises:
        UserError: if there is nothing of the kind at `path`.
    """
    from lhotse import CutSet

    path = Path(path)
    cuts = SharCuts(path, shard_seed) if path.is_dir() else CutLines(path)
    if next(iter(cuts), None) is None:
        raise UserError(f"{path}: the manifest is empty, expected at least one cut")
    return CutSet(cuts)


class CutLines:
    """The cuts of a JSON-lines file, read anew by every iteration.

    Lhotse's own lazy iterator reports a damaged line without saying which.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.name.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(f"{path}: expected cuts as .jsonl or .jsonl.gz, or a Shar directory")
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")

    def __iter__(self) -> Iterator["Cut"]:
        for number, line in self._lines():
            yield self._cut(line, number)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, line
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{self.path}:{number + 1}: damaged gzip file ({error})") from None

    def _cut(self, line: bytes, number: int) -> "Cut":
        from lhotse.cut.set import deserialize_cut

        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}:{number}: not JSON ({error}), expected one cut a line") from None
        kind = content.get("type") if isinstance(content, dict) else None
        if kind not in CUT_TYPES:
            raise UserError(f"{self.path}:{number}: found {_describe(content)}, expected a cut")
        try:
            _check_values(content)
            return deserialize_cut(content)
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise UserError(
                f"{self.path}:{number}: not a valid {kind} ({type(error).__name__}: {error})"
            ) from None

    def __len__(self) -> int:
        """Number of lines; it takes a pass over the file."""
        return sum(1 for _ in self._lines())


def _check_values(content: dict[str, Any]) -> None:
    """Raises TypeError for names and times of another type, which Lhotse lets pass."""
    for item in (content, *(content.get("supervisions") or ())):
        for key, value in (("id", item["id"]), ("text", item.get("text")), ("speaker", item.get("speaker"))):
            if not isinstance(value, str) and (key == "id" or value is not None):
                raise TypeError(f"{key}: found {value!r}, expected a string")
        for key in ("start", "duration"):
            value = item.get(key, 0.0)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise TypeError(f"{key}: found {value!r}, expected a number of seconds")


def _describe(content: Any) -> str:
    """What a JSON value seems to be, in Lhotse's terms."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    if "sources" in content:
        return "a recording"
    if "recording_id" in content:
        return "a supervision" if "num_features" not in content else "features"
    return f"an object with type {content['type']!r}" if "type" in content else "an object without a type"


def write_cuts(path: str | Path, cuts: Iterable["Cut"]) -> int:
    """Writes cuts as JSON lines, atomically; equal cuts give equal bytes.

    Returns:
        The number of cuts.
    """
    count = 0
    with atomic_write(path) as file:
        for cut in cuts:
            file.write(line_of(cut))
            count += 1
    return count


def line_of(cut: "Cut") -> str:
    """A cut as a line of a manifest; raises UserError if its data lie in memory, as those of a Shar folder do."""
    try:
        return json.dumps(cut.to_dict(), ensure_ascii=False) + "\n"
    except TypeError:
        raise UserError(
            f"cut {cut.id}: its audio or labels lie in memory (in a Shar folder, say), expected files to refer to"
        ) from None


def mono_cut(
    name: str,
    path: str | Path,
    num_samples: int,
    sampling_rate: int = 16_000,
    text: str | None = None,
    speaker: str | None = None,
    language: str | None = None,
    **custom: Any,
) -> "MonoCut":
    """Describes a whole one-channel file as a cut with one supervision, without opening the file.

    Args:
        name: id of the cut, of its recording and of its supervision.
        path: the audio file.
        num_samples: its length.
        sampling_rate: its sampling rate in Hz.
        text: what is said, or None if unknown.
        speaker: who says it, or None.
        language: ISO 639-1 code, or None.
        **custom: further fields of the cut.
    """
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    duration = num_samples / sampling_rate
    recording = Recording(name, [AudioSource("file", [0], str(path))], sampling_rate, num_samples, duration)
    segment = SupervisionSegment(name, name, 0.0, duration, text=text, speaker=speaker, language=language)
    return MonoCut(name, 0.0, duration, 0, [segment], recording=recording, custom=custom or None)

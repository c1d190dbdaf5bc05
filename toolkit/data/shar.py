"""Lhotse Shar: cuts and their data packed into tar files, for reading in sequence."""

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.audio import load_audio
from toolkit.data.codecs import BadAudio
from toolkit.errors import UserError

if TYPE_CHECKING:
    from lhotse.cut import Cut


DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    AssertionError,
    AttributeError,
)
"""What Lhotse raises for files that are damaged or do not fit together."""


class SharCuts:
    """The cuts of a Shar folder, read anew by every iteration.

    Lhotse reports damage with no name, and cuts without audio only when it is wanted.

    Args:
        folder: the folder.
        shard_seed: of the random order in which the shards are read; None for their own order.

    Raises:
        UserError: not a Shar folder, files are missing or cut short; iterating, what is in them is damaged.
    """

    def __init__(self, folder: Path, shard_seed: int | None) -> None:
        from lhotse import CutSet

        self.folder = folder
        self._check()
        # Left alone, Lhotse changes the order with every pass, and a run that goes on would begin with the first.
        self.cuts = CutSet.from_shar(
            in_dir=folder,
            shuffle_shards=shard_seed is not None,
            seed=shard_seed or 0,
            stateful_shuffle=False,
        )

    def _check(self) -> None:
        found = list(self.folder.glob("cuts.*.jsonl*"))
        if not found:
            raise UserError(
                f"{self.folder}: no cuts.*.jsonl.gz in this folder, expected a Lhotse Shar directory"
            )
        for path in found:
            if not path.stat().st_size:
                raise UserError(f"{path}: 0 bytes, expected a list of cuts")
            audio = self.folder / f"recording.{path.name.split('.')[1]}.tar"
            if not audio.exists():
                raise UserError(f"{audio}: no such file, expected the audio of {path.name}")
        for path in self.folder.glob("*.tar"):
            with open(path, "rb") as file:
                file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
                # A whole tar file ends with two blocks of zeros.
                if file.read() != bytes(1024):
                    raise UserError(f"{path}: cut short, expected a whole tar file")

    def __iter__(self) -> Iterator["Cut"]:
        return _whole(self.folder, self.cuts)

    def __len__(self) -> int:
        """Number of cuts; it takes a pass over the lists of cuts."""
        return len(self.cuts)


def _whole(folder: str | Path, cuts: Iterable["Cut"]) -> Iterator["Cut"]:
    """The cuts as they were packed; UserError names the folder where they are damaged."""
    try:
        for cut in cuts:
            # Lhotse notes where it found a cut; that is no part of it, and cannot be written as JSON.
            del cut.custom["shard_origin"], cut.custom["shar_epoch"]
            yield cut
    except DAMAGE as error:
        raise UserError(f"{folder}: damaged Shar directory ({error})") from None


def shard_names(folder: str | Path) -> list[str]:
    """What the files of each shard of a Shar folder have in their names, in order; UserError as `SharCuts`."""
    SharCuts(Path(folder), None)
    return sorted(path.name.split(".")[1] for path in Path(folder).glob("cuts.*.jsonl*"))


def list_shard(folder: str | Path, name: str) -> Iterator["Cut"]:
    """The cuts of a shard without their audio and arrays, which are not read."""
    return _shard(folder, name, {})


def read_shard(folder: str | Path, name: str) -> list["Cut"]:
    """The cuts of a shard with their audio, but without arrays."""
    return list(_shard(folder, name, {"recording": [Path(folder) / f"recording.{name}.tar"]}))


def _shard(folder: str | Path, name: str, fields: dict[str, list[Path]]) -> Iterator["Cut"]:
    from lhotse import CutSet

    fields = {"cuts": list(Path(folder).glob(f"cuts.{name}.jsonl*")), **fields}
    return _whole(folder, CutSet.from_shar(fields=fields))


def write_shar(
    cuts: Iterable["Cut"],
    folder: str | Path,
    shard_size: int,
    audio_format: str,
    skip: Callable[[str, str, str], None],
) -> int:
    """Packs cuts, their audio and their arrays (such as frame labels).

    The folder appears under its name only when it is complete.

    Args:
        cuts: mono cuts, all with the same kinds of arrays.
        folder: what to make; `open_cuts` reads it back.
        shard_size: cuts in a tar file.
        audio_format: "flac" or "wav".
        skip: takes id, path and reason of each cut whose audio cannot be read.

    Returns:
        The number of cuts packed.

    Raises:
        UserError: if the folder exists, or no cut could be packed.
    """
    from lhotse.shar import SharWriter

    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder}: exists already, expected the name of a new folder")
    if shard_size < 1:
        raise UserError(f"shard size: found {shard_size}, expected at least 1")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    writer, count = None, 0
    try:
        for cut in cuts:
            try:
                load_audio(cut)
            except BadAudio as bad:
                skip(cut.id, bad.path, bad.reason)
                continue
            if writer is None:
                fields = {"recording": audio_format, **array_fields(cut)}
                writer = SharWriter(partial, fields, shard_size).__enter__()
            writer.write(cut)
            count += 1
    finally:
        if writer is not None:
            writer.close()
    if not count:
        raise UserError(f"{folder}: no cut can be packed")
    os.replace(partial, folder)
    return count


def array_fields(cut: "Cut") -> dict[str, str]:
    """How the arrays of a cut are stored, by name."""
    from lhotse.array import Array, TemporalArray

    return {
        name: "numpy"
        for name, value in (cut.custom or {}).items()
        if isinstance(value, Array | TemporalArray)
    }

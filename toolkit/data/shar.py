"""Lhotse Shar: cuts and their data packed into tar files, for reading in sequence."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.audio import load_audio
from toolkit.data.codecs import BadAudio
from toolkit.errors import UserError

if TYPE_CHECKING:
    from lhotse.cut import Cut


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

"""Recordings to be processed one by one, from a manifest or from audio files, as streams of samples."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.audio import audio_paths, load_audio
from toolkit.data.codecs import BadAudio, decode
from toolkit.data.manifests import open_cuts
from toolkit.data.validate import SeenIds
from toolkit.errors import UserError
from toolkit.models.base import SHORTEST_SECONDS

if TYPE_CHECKING:
    from lhotse import CutSet
    from lhotse.cut import Cut

BLOCK_SECONDS = 60.0
"""How much of a cut is read at a time."""


@dataclass(frozen=True)
class Recording:
    """One recording; `blocks()` reads it, a little at a time."""

    id: str
    """Name in files that are written."""
    path: str
    """Where it comes from, for messages."""
    offset: float
    """Time of its first sample, in seconds."""
    blocks: Callable[[], Iterator[np.ndarray]]
    """Its samples in order, mono float32 (S,); raises BadAudio."""


def named_recordings(
    cuts: str | None, files: Sequence[str], sampling_rate: int, by_recording: bool = False
) -> Iterator[Recording]:
    """What a command line names: a manifest, or audio files.

    Args:
        cuts: path of a manifest.
        files: paths of audio files.
        sampling_rate: what all are resampled to.
        by_recording: see `from_cuts`.

    Raises:
        UserError: both are given, or none.
    """
    if bool(cuts) == bool(files):
        raise UserError(
            f"command line: found {'both' if cuts else 'none'} of --cuts and audio files, expected one"
        )
    return from_cuts(cuts, sampling_rate, by_recording) if cuts else from_files(files, sampling_rate)


def from_cuts(manifest: str, sampling_rate: int, by_recording: bool) -> Iterator[Recording]:
    """The recordings of a manifest.

    Args:
        manifest: path of cuts with one channel.
        sampling_rate: what they are resampled to.
        by_recording: False names each after its cut, and time 0 is the start of the cut; True names each
            after its recording, and time 0 is the start of the recording.

    Raises:
        UserError: two cuts would have the same name, or the manifest is damaged; raised before the first recording.
    """
    cuts: CutSet = open_cuts(manifest)
    # All of it is looked at first, so that what is wrong near its end costs nothing that was already computed.
    with closing(SeenIds()) as seen:
        for cut in cuts:
            if not seen.add(_name(cut, by_recording)):
                kind = "recording" if by_recording else "id"
                raise UserError(
                    f"{manifest}: found 2 cuts of the {kind} {_name(cut, by_recording)!r}, expected one"
                )
    for cut in cuts:
        offset = cut.start if by_recording and hasattr(cut, "start") else 0.0
        paths = ", ".join(audio_paths(cut))
        yield Recording(
            _name(cut, by_recording), paths, offset, lambda cut=cut: cut_blocks(cut, sampling_rate)
        )


def _name(cut: "Cut", by_recording: bool) -> str:
    return cut.recording_id if by_recording and hasattr(cut, "recording_id") else cut.id


def from_files(paths: Iterable[str | Path], sampling_rate: int) -> Iterator[Recording]:
    """Audio files; each is named after its file, with _ for spaces.

    Raises:
        UserError: two files would have the same name.
    """
    named: dict[str, str | Path] = {}
    for path in paths:
        name = re.sub(r"\s", "_", Path(path).stem)
        if name in named:
            raise UserError(f"{path}: found a second file called {name} after {named[name]}, expected one")
        named[name] = path
    for name, path in named.items():
        yield Recording(name, str(path), 0.0, lambda path=path: file_blocks(path, sampling_rate))


def cut_blocks(cut: "Cut", sampling_rate: int) -> Iterator[np.ndarray]:
    """Reads a cut piece by piece."""
    if cut.sampling_rate != sampling_rate:
        cut = cut.resample(sampling_rate)
    size = round(BLOCK_SECONDS * sampling_rate)
    for first in range(0, cut.num_samples, size):
        piece = cut
        if cut.num_samples > size:
            seconds = min(size, cut.num_samples - first) / sampling_rate
            piece = cut.truncate(offset=first / sampling_rate, duration=seconds, preserve_id=True)
        yield load_audio(piece)


def file_blocks(path: str | Path, sampling_rate: int) -> Iterator[np.ndarray]:
    """Decodes a file block by block, channels averaged."""
    for block in decode(path, sampling_rate):
        if not np.isfinite(block).all():
            raise BadAudio(path, "not finite: some samples are NaN or infinite")
        yield block.mean(axis=0, dtype=np.float32)


def first_samples(blocks: Iterable[np.ndarray], seconds: float, sampling_rate: int, path: str) -> np.ndarray:
    """The first `seconds` of a recording, or all of it; raises BadAudio if there is next to nothing."""
    if seconds < SHORTEST_SECONDS:
        raise UserError(f"max-seconds: found {seconds:g}, expected {SHORTEST_SECONDS} or more")
    wanted = round(seconds * sampling_rate)
    parts, count = [], 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count >= wanted:
            break
    if count < SHORTEST_SECONDS * sampling_rate:
        raise BadAudio(path, f"too short: {count} samples, limit {SHORTEST_SECONDS} s")
    return np.concatenate(parts)[:wanted]

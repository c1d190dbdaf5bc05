"""Decoding audio files of any kind, with a reason for each that is refused.

A reason reads "kind: details". The kinds (missing, empty, truncated, not audio, multi-channel, not finite,
clipped, silent, ...) are what reports count.
"""

import errno
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolkit.data.levels import Limits, Meter
from toolkit.errors import UserError

SAMPLE_RATE = 16_000
LOSSLESS = {".wav", ".flac"}
"""Files that are read in place: any stretch of them can be read exactly and at once."""
COMPRESSED = set(
    ".aac .aif .aiff .amr .au .caf .g722 .m4a .mka .mp2 .mp3 .mp4 .oga .ogg .opus .w64 .wma".split()
)
"""Files that are decoded once."""

_ESTIMATED = {"aac", "mp3", "ogg", "amr", "g722"}
"""Containers whose headers only estimate the duration, so that nothing can be told from a difference."""
_RAW_FORMATS = {".g722": "g722"}
"""Suffixes of files without a header, and what to decode them as."""


class BadAudio(UserError):
    """A recording that cannot be used: its path (or id, if it has none) and the reason, "kind: details"."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason


class Header(NamedTuple):
    """What a file says about itself."""

    num_samples: int
    sampling_rate: int
    num_channels: int


def read_header(path: str | Path) -> Header:
    """Reads what a file says about itself, without decoding it.

    Raises:
        BadAudio: if the file is missing, unreadable, empty, not audio, or shorter than its own header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise BadAudio(path, "missing: no such file") from None
    except OSError as error:
        raise BadAudio(path, f"unreadable: {error.strerror}") from None
    if size == 0:
        raise BadAudio(path, "empty: the file has 0 bytes")
    header = _sound_header(path) if path.suffix.lower() in LOSSLESS else _av_header(path)
    if header.num_channels == 0 or header.sampling_rate == 0:
        raise BadAudio(path, "not audio: no audio stream in the file")
    return header


def _sound_header(path: Path) -> Header:
    import soundfile

    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise BadAudio(path, f"not audio: {error.error_string}") from None
    if info.frames == 0:
        raise BadAudio(path, "empty: no samples")
    if info.format == "WAV":
        # libsndfile quietly takes what is there; the header still tells what was meant to be.
        declared, present = _wav_data_bytes(path)
        if present < declared:
            raise BadAudio(
                str(path), f"truncated: the header says {declared} bytes of samples, found {present}"
            )
    return Header(info.frames, info.samplerate, info.channels)


def _wav_data_bytes(path: Path) -> tuple[int, int]:
    """Size of a RIFF file's data chunk, as declared and as present."""
    total = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                present = total - file.tell()
                # Who writes to a pipe cannot go back to fill in the size, and leaves 0 or all ones.
                unknown = size == 0 or size >= 0x7FFFFFFF - 2048
                return (present if unknown else size), present
            file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0


def _av_header(path: Path) -> Header:
    import av

    try:
        with av.open(str(path), format=_RAW_FORMATS.get(path.suffix.lower())) as container:
            if not container.streams.audio:
                raise BadAudio(path, "not audio: no audio stream in the file")
            stream = container.streams.audio[0]
            seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
            return Header(round(seconds * stream.rate), stream.rate, stream.channels)
    except av.error.FFmpegError as error:
        raise BadAudio(path, f"not audio: {error.strerror}") from None


def decode(path: str | Path, sampling_rate: int | None = None) -> Iterator[np.ndarray]:
    """Decodes a whole file block by block.

    Args:
        path: any audio file that libsndfile or FFmpeg's libraries read.
        sampling_rate: what to resample to; None keeps the file's own.

    Yields:
        float32 blocks (C, n), full scale 1.

    Raises:
        BadAudio: if the file is missing, empty, not audio, or ends before its header says.
    """
    path = Path(path)
    header = read_header(path)
    if path.suffix.lower() in LOSSLESS and sampling_rate in (None, header.sampling_rate):
        yield from _sound_blocks(path, header)
    else:
        yield from _av_blocks(path, header, sampling_rate or header.sampling_rate)


def _sound_blocks(path: Path, header: Header) -> Iterator[np.ndarray]:
    import soundfile

    read = 0
    try:
        with soundfile.SoundFile(path) as file:
            while len(block := file.read(1 << 18, dtype="float32", always_2d=True)):
                read += len(block)
                yield block.T
    except soundfile.LibsndfileError as error:
        message = error.error_string.removeprefix("Error : ").rstrip(".")
        raise BadAudio(
            str(path), f"truncated: {message} after {read} of {header.num_samples} samples"
        ) from None
    if read < header.num_samples:
        raise BadAudio(path, f"truncated: {read} samples decoded, the header says {header.num_samples}")


def _av_blocks(path: Path, header: Header, sampling_rate: int) -> Iterator[np.ndarray]:
    import av

    decoded = 0
    try:
        with av.open(str(path), format=_RAW_FORMATS.get(path.suffix.lower())) as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp", rate=sampling_rate)
            for frame in container.decode(stream):
                decoded += frame.samples
                yield from (part.to_ndarray() for part in resampler.resample(frame))
            if decoded:
                yield from (part.to_ndarray() for part in resampler.resample(None))
            estimated = not _ESTIMATED.isdisjoint(container.format.name.split(","))
    except av.error.FFmpegError as error:
        raise BadAudio(path, f"truncated: {error.strerror} after {decoded} samples") from None
    if decoded == 0:
        raise BadAudio(path, "empty: no samples")
    # Encoders pad and trim a little at both ends.
    if not estimated and decoded < 0.98 * header.num_samples - 0.1 * header.sampling_rate:
        raise BadAudio(
            str(path), f"truncated: {decoded} samples decoded, the header says {header.num_samples}"
        )


def to_flac(
    source: str | Path, target: str | Path, channel: int | None = None, limits: Limits | None = None
) -> int:
    """Decodes any audio file to FLAC, 16 kHz, one channel, 16 bits.

    Args:
        source: any file that `decode` reads.
        target: the file to write.
        channel: which channel to take; None takes the mean of all.
        limits: what to refuse; None refuses only what cannot be decoded.

    Returns:
        The number of samples written.

    Raises:
        BadAudio: with the reason; then nothing is written.
    """
    meter = Meter()

    def checked() -> Iterator[np.ndarray]:
        for block in decode(source, SAMPLE_RATE):
            if channel is not None and channel >= len(block):
                raise BadAudio(source, f"multi-channel: no channel {channel}, the file has {len(block)}")
            mono = block.mean(axis=0) if channel is None else block[channel]
            meter.add(mono)
            yield mono
        problem = meter.problem(limits) if limits else None if meter.num_samples else "empty: no samples"
        if problem:
            raise BadAudio(source, problem)

    return write_flac(target, checked())


def write_flac(path: str | Path, blocks: Iterable[np.ndarray]) -> int:
    """Writes one-channel samples as FLAC, 16 kHz, 16 bits.

    The file appears under its name only when it is complete. It is not flushed to disk, as thousands of small
    files would take minutes then; who trusts one that is there should read its header first.

    Args:
        path: the file to write; missing parent folders are made.
        blocks: float samples (n,), full scale 1; what exceeds it is clipped.

    Returns:
        The number of samples written.

    Raises:
        OSError: if the disk is full, say.
    """
    import soundfile

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with soundfile.SoundFile(partial, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
            for block in blocks:
                file.write(np.clip(block, -1, 1))
                count += len(block)
        os.replace(partial, path)
    except soundfile.LibsndfileError:
        # libsndfile does not pass on why.
        code = errno.ENOSPC if shutil.disk_usage(path.parent).free < 1 << 20 else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    return count

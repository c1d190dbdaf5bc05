"""Reading the samples of a cut, or saying in one line why that cannot be done."""

import os
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.codecs import SAMPLE_RATE, BadAudio, read_header

if TYPE_CHECKING:
    from lhotse.cut import Cut

__all__ = ["SAMPLE_RATE", "BadAudio", "audio_paths", "load_audio"]

TOLERANCE = "LHOTSE_AUDIO_DURATION_MISMATCH_TOLERANCE"
"""The variable with which Lhotse is told by how many seconds a file may differ from its manifest."""


def load_audio(cut: "Cut") -> np.ndarray:
    """Reads the samples of a cut.

    Args:
        cut: any Lhotse cut with one channel (a mixed cut is mixed down).

    Returns:
        float32 samples (S,), full scale 1, S = cut.num_samples.

    Raises:
        BadAudio: if they cannot be read in full, or some are NaN or infinite.
    """
    from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
    from soundfile import LibsndfileError

    # Enough for rounded times. Left alone, Lhotse fills up to half a second with mirrored samples.
    os.environ.setdefault(TOLERANCE, "0.025")
    paths = audio_paths(cut)
    name = paths[0] if paths else cut.id
    try:
        samples = cut.load_audio()
    except (
        AudioLoadingError,
        DurationMismatchError,
        LibsndfileError,
        OSError,
        ValueError,
        AssertionError,
    ) as error:
        raise BadAudio(name, _explain(cut, paths, error)) from None
    if samples is None:
        raise BadAudio(name, "missing: the cut has no recording")
    if samples.shape[0] != 1:
        raise BadAudio(name, f"multi-channel: {samples.shape[0]} channels, expected 1")
    if samples.shape[1] == 0:
        raise BadAudio(name, "empty: no samples")
    samples = samples[0].astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise BadAudio(name, "not finite: some samples are NaN or infinite")
    return samples


def _explain(cut: "Cut", paths: list[str], error: Exception) -> str:
    """Why a cut could not be read; Lhotse's own messages run over many lines."""
    for path in paths:
        if problem := check_source(cut, path):
            return problem
    return f"unreadable: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, or what kind it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_source(cut: "Cut", path: str) -> str | None:
    """Compares the header of a cut's file with the manifest; returns what is wrong, or None."""
    try:
        found = read_header(path)
    except BadAudio as bad:
        return bad.reason
    recording = getattr(cut, "recording", None)
    if recording is None or recording.transforms:
        return None
    if found.sampling_rate != recording.sampling_rate:
        return (
            f"wrong sampling rate: {found.sampling_rate} Hz, the manifest says {recording.sampling_rate} Hz"
        )
    if found.num_samples < recording.num_samples:
        return f"truncated: {found.num_samples} samples, the manifest says {recording.num_samples}"
    return None


def audio_paths(cut: "Cut") -> list[str]:
    """Files that the samples of a cut come from; data in memory or behind an address has none."""
    tracks = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    recordings = [track.recording for track in tracks if getattr(track, "recording", None) is not None]
    return [
        source.source for recording in recordings for source in recording.sources if source.type == "file"
    ]

"""From the local speakers of overlapping chunks to the turns of the speakers of a recording.

Dimensions: N local speakers over all chunks, F frames of a chunk, T frames of the recording, G speakers of
    the recording, D embedding size.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from toolkit.decode.clustering import ClusteringConfig, agglomerate, assign, centroids


class LocalSpeaker(NamedTuple):
    """Somebody who talks within a chunk."""

    activity: np.ndarray
    """(F,) probability of talking, float16."""
    embedding: np.ndarray
    """(D,) float32."""
    clean: float
    """Seconds of talking alone."""


class Chunk(NamedTuple):
    """What is kept of a window of audio."""

    frames: int
    """F."""
    speakers: list[LocalSpeaker]
    """Those who talk; none in silence."""


class Turn(NamedTuple):
    """One stretch of speech of one speaker; times in seconds."""

    start: float
    end: float
    speaker: str


def identify(chunks: Sequence[Chunk], min_trusted: float, config: ClusteringConfig) -> np.ndarray:
    """Finds out which local speakers are the same person.

    Only those who talk alone for long enough found clusters (all, if nobody does): a second of speech tells
    little about a voice. Then every local speaker goes to a near cluster, those of one chunk to different
    ones.

    Args:
        chunks: of one recording.
        min_trusted: seconds that are enough.
        config: of the clustering.

    Returns:
        (N,) int64: the speaker of the recording for each local speaker, chunk after chunk.
    """
    groups = [index for index, chunk in enumerate(chunks) for _ in chunk.speakers]
    if not groups:
        return np.zeros(0, dtype=np.int64)
    embeddings = np.stack([speaker.embedding for chunk in chunks for speaker in chunk.speakers])
    trusted = np.array([speaker.clean >= min_trusted for chunk in chunks for speaker in chunk.speakers])
    trusted = trusted if trusted.any() else ~trusted
    clusters = agglomerate(embeddings[trusted], config)
    return assign(embeddings, centroids(embeddings[trusted], clusters), groups)


def stitch(chunks: Sequence[Chunk], labels: np.ndarray, step: int) -> np.ndarray:
    """Averages the activities of overlapping chunks, each local speaker under their name in the recording.

    Args:
        chunks: chunk n starts at frame n * step.
        labels: (N,) from `identify`.
        step: in frames.

    Returns:
        (T, G) float32 probabilities.
    """
    total = max((index * step + chunk.frames for index, chunk in enumerate(chunks)), default=0)
    num_speakers = labels.max(initial=-1) + 1
    scores = np.zeros((total, num_speakers), dtype=np.float32)
    coverage = np.zeros((total, 1), dtype=np.float32)
    names = iter(labels.tolist())
    for index, chunk in enumerate(chunks):
        own = np.zeros((chunk.frames, num_speakers), dtype=np.float32)
        # The names come second, so that zip takes none too many.
        for local, name in zip(chunk.speakers, names, strict=False):
            own[:, name] = np.maximum(own[:, name], local.activity)
        scores[index * step : index * step + chunk.frames] += own
        coverage[index * step : index * step + chunk.frames] += 1
    return scores / np.maximum(coverage, 1)


def speakers_at(scores: np.ndarray) -> np.ndarray:
    """Decides who talks in each frame: as many speakers as the scores add up to, the likeliest first.

    The sum of the scores is the expected number of speakers. Going by it, rather than by a threshold on each
    speaker, keeps a frame in which chunks agree that somebody talks but not on who.

    Args:
        scores: (T, G).

    Returns:
        (T, G) bool.
    """
    counts = np.rint(scores.sum(1, keepdims=True))
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return ranks < counts


def smooth(active: np.ndarray, size: int) -> np.ndarray:
    """Median filter over `size` frames for each speaker: (T, G) bool to (T, G) bool."""
    return median_filter(active.astype(np.uint8), size=(size, 1), mode="nearest") > 0


def to_turns(
    active: np.ndarray, frame_shift: float, duration: float, min_duration_on: float, min_duration_off: float
) -> list[Turn]:
    """Frames to turns: fills short pauses, then drops short turns.

    Args:
        active: (T, G) bool.
        frame_shift: seconds a frame.
        duration: of the recording; no turn ends later.
        min_duration_on: shorter turns are dropped.
        min_duration_off: shorter pauses within a speaker's turn are filled.

    Returns:
        Turns by start time; speakers are "speaker01", "speaker02", ... by appearance.
    """
    spans = []
    for speaker, row in enumerate(active.T):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).reshape(-1, 2) * frame_shift
        merged: list[list[float]] = []
        for start, end in np.minimum(edges, duration).tolist():
            if merged and start - merged[-1][1] < min_duration_off:
                merged[-1][1] = end
            else:
                merged.append([start, end])
        shortest = max(min_duration_on, 1e-9)
        spans += [(start, end, speaker) for start, end in merged if end - start >= shortest]
    spans.sort()
    order = list(dict.fromkeys(speaker for _, _, speaker in spans))
    return [Turn(start, end, f"speaker{order.index(speaker) + 1:02d}") for start, end, speaker in spans]


def rttm(recording: str, turns: Iterable[Turn]) -> Iterable[str]:
    """One line of NIST's RTTM format a turn, without the line end."""
    for turn in turns:
        times = f"{turn.start:.3f} {turn.end - turn.start:.3f}"
        yield f"SPEAKER {recording} 1 {times} <NA> <NA> {turn.speaker} <NA> <NA>"

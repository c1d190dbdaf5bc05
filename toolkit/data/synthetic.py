"""A tiny corpus made of nothing: formant-like tones that spell words, for debug configurations and tests.

Every letter is a steady pair of resonances, every speaker a pitch and a vocal-tract length. The signal is far
from speech, but text, speaker and frame labels can be learned from it in seconds on a CPU.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.files import write_jsonl

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut

SAMPLING_RATE = 16_000
FRAME_SHIFT = 0.02
LETTERS = "aeioubdgkmnst"
WORDS = (
    "bad",
    "bee",
    "dusk",
    "game",
    "goat",
    "kin",
    "man",
    "moon",
    "nod",
    "sake",
    "sit",
    "stone",
    "sun",
    "take",
    "time",
)


def synthetic_cuts(
    num_cuts: int = 60, num_speakers: int = 4, seed: int = 0, folder: str | Path | None = None
) -> "CutSet":
    """Makes a deterministic corpus of 1 to 3 s a cut.

    Args:
        num_cuts: number of cuts; speakers take turns.
        num_speakers: number of speakers, "speaker00", "speaker01", ...
        seed: the same seed gives the same samples and words.
        folder: where to write FLAC files, labels and `cuts.jsonl.gz`; None keeps everything in memory.

    Returns:
        Cuts with one supervision (text, speaker), `custom["source"] == "synthetic"` and a TemporalArray
        `labels` (int16, one a frame of 20 ms: 0 for silence, else 1 + index in LETTERS).
    """
    from lhotse import CutSet

    if num_cuts < 1 or num_speakers < 1:
        raise ValueError(f"num_cuts and num_speakers must be positive, got {num_cuts} and {num_speakers}")
    cuts = CutSet.from_cuts(_cuts(num_cuts, num_speakers, seed, None if folder is None else Path(folder)))
    if folder is not None:
        write_jsonl(Path(folder) / "cuts.jsonl.gz", (cut.to_dict() for cut in cuts))
    return cuts


def _cuts(num_cuts: int, num_speakers: int, seed: int, folder: Path | None) -> Iterator["MonoCut"]:
    from lhotse import MonoCut, Recording, SupervisionSegment

    for index in range(num_cuts):
        rng = random.Random(f"{seed}-{index}")
        speaker = index % num_speakers
        text = " ".join(rng.choices(WORDS, k=rng.randint(3, 6)))
        samples, labels = speak(
            text, pitch=90 * 2 ** (1.5 * speaker / num_speakers), tract=1 - 0.06 * (speaker % 5), rng=rng
        )
        name = f"synthetic-{seed}-{index:04d}"
        packed = io.BytesIO()
        _write_flac(packed, samples)
        if folder is None:
            recording = Recording.from_bytes(packed.getvalue(), name)
        else:
            path = folder / "audio" / f"{name}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed.getvalue())
            recording = Recording.from_file(path, name)
        segment = SupervisionSegment(
            name,
            name,
            0.0,
            recording.duration,
            text=text,
            speaker=f"speaker{speaker:02d}",
            language="synthetic",
        )
        cut = MonoCut(
            name, 0.0, recording.duration, 0, [segment], recording=recording, custom={"source": "synthetic"}
        )
        yield _with_labels(cut, labels, folder)


def speak(text: str, pitch: float, tract: float, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Spells `text` with tones.

    Args:
        text: letters of LETTERS and spaces.
        pitch: fundamental frequency in Hz.
        tract: what the resonances are multiplied by.
        rng: draws letter durations, resonance jitter and noise.

    Returns:
        samples (S,) float32 in [-1, 1] and labels (T,) int16, T = S / 320.
    """
    spoken = f" {text} "
    lengths = [rng.randint(3, 6) for _ in spoken]
    ids = np.repeat([LETTERS.find(letter) + 1 for letter in spoken], lengths)
    first, second = _resonances(ids, tract * rng.uniform(0.97, 1.03))
    loudness = np.where(ids > 0, 0.12, 0.0)
    step = round(SAMPLING_RATE * FRAME_SHIFT)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(ids) * step)
    samples = 0.002 * noise
    time = np.arange(len(samples)) / SAMPLING_RATE
    for harmonic in range(1, int(3200 / pitch) + 1):
        frequency = harmonic * pitch
        near = np.exp(-(((frequency - first) / 120) ** 2)) + 0.7 * np.exp(
            -(((frequency - second) / 160) ** 2)
        )
        amplitude = np.interp(time, (np.arange(len(ids)) + 0.5) * FRAME_SHIFT, loudness * (near + 0.03))
        samples += amplitude * np.sin(2 * np.pi * frequency * time + harmonic)
    return np.clip(samples, -1, 1).astype(np.float32), ids.astype(np.int16)


def _resonances(ids: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz (T,) of the two resonances: a grid in which neighbouring letters lie far apart."""
    order = (ids * 5) % 14
    return scale * (300 + 100 * (order % 5)), scale * (1000 + 450 * (order // 3))


def _write_flac(file: io.BytesIO, samples: np.ndarray) -> None:
    import soundfile

    soundfile.write(file, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")


def _with_labels(cut: "MonoCut", labels: np.ndarray, folder: Path | None) -> "MonoCut":
    if folder is None:
        return cut.attach_tensor("labels", labels, frame_shift=FRAME_SHIFT, temporal_dim=0)
    from lhotse import NumpyFilesWriter

    with NumpyFilesWriter(folder / "labels") as writer:
        cut.labels = writer.store_array(cut.id, labels, frame_shift=FRAME_SHIFT, temporal_dim=0, start=0.0)
    return cut

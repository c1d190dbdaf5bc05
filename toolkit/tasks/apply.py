"""Trained speaker and segmentation models, applied to recordings.

Dimensions: B batch, S samples, T frames, K local speakers, E embedding size.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit.data.codecs import BadAudio
from toolkit.data.recordings import Recording, first_samples
from toolkit.data.validate import skipped_row
from toolkit.decode.diarize import Diarizer
from toolkit.decode.embedding import Embeddings, cohort_mean, embed_all
from toolkit.decode.stitching import Turn
from toolkit.errors import UserError
from toolkit.tasks.load import load_model

Skipped = list[dict[str, str]]
"""Rows of skipped.jsonl: id, path and reason."""
Diarized = list[tuple[str, list[Turn]]]
"""Recordings and who talks when in them."""


class SpeakerEmbedder:
    """The speaker model of a model directory, as a function.

    Args:
        folder: the model directory.
        device: "cpu", "cuda", ..., or "auto": the GPU if there is one.
        cohort: embeddings of other speakers, whose mean is subtracted; see `cohort_mean`.

    Raises:
        UserError: not the directory of a speaker model, no such device, or a cohort of another model.
    """

    def __init__(self, folder: str | Path, device: str, cohort: str | Path | None = None) -> None:
        self.device = pick_device(device)
        self.model, settings = load_trained(folder, "speaker", self.device)
        self.sampling_rate: int = settings.speech.frontend.sample_rate
        self.mean = torch.zeros(self.model.embedding_dim, device=self.device)
        if cohort is not None:
            self.mean = torch.from_numpy(cohort_mean(cohort, len(self.mean))).to(self.device)

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Waveforms (B, S) and lengths (B,) to embeddings (B, E)."""
        return self.model.embed(waveforms.to(self.device), lengths.to(self.device)) - self.mean


class Segmenter:
    """The segmentation model of a model directory, as a function; see `SpeakerEmbedder`."""

    def __init__(self, folder: str | Path, device: str) -> None:
        self.device = pick_device(device)
        self.model, settings = load_trained(folder, "diarization", self.device)
        self.sampling_rate: int = settings.speech.frontend.sample_rate
        self.frame_shift: float = self.model.frame_shift
        self.chunk_seconds: float = settings.chunk_seconds

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and lengths (B,) to speaker probabilities (B, T, K) and frame counts (B,)."""
        return self.model.probabilities(waveforms.to(self.device), lengths.to(self.device))


def load_trained(folder: str | Path, task: str, device: torch.device) -> tuple[Any, Any]:
    """A model and the settings of its task; raises UserError if it was trained for another task."""
    model = load_model(folder, device)
    if model.config.task != task:
        raise UserError(f"{folder}: found a model of the task {model.config.task!r}, expected {task!r}")
    return model, model.config


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(
            f"device: found {name!r}, which this machine does not have; expected auto or cpu"
        ) from None


def embed_recordings(
    recordings: Iterable[Recording], embedder: SpeakerEmbedder, max_seconds: float, batch_seconds: float
) -> tuple[Embeddings, Skipped]:
    """Embeds each recording that can be read.

    Args:
        recordings: what to embed; a few dozen are held at a time.
        embedder: the speaker model.
        max_seconds: of a long recording, only so much is used.
        batch_seconds: audio that is computed together, with padding.

    Returns:
        The embeddings, in the order of the recordings, and a row for each one left out.
    """
    rate = embedder.sampling_rate
    ids: list[str] = []
    vectors, skipped = [], []
    recordings = iter(recordings)
    while block := list(islice(recordings, 64)):
        voices = []
        for recording in block:
            try:
                voices.append(first_samples(recording.blocks(), max_seconds, rate, recording.path))
                ids.append(recording.id)
            except BadAudio as error:
                skipped.append(skipped_row(recording.id, error.path, error.reason))
        if voices:
            vectors.append(embed_all(voices, embedder, round(batch_seconds * rate)))
    return Embeddings(ids, np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)), skipped


def check_some(done: int, skipped: Skipped) -> None:
    """Raises UserError if not a single recording could be used."""
    if not done:
        first = f"; the first: {skipped[0]['path']}: {skipped[0]['reason']}" if skipped else ""
        raise UserError(f"none of {len(skipped)} recordings can be used{first}")


def diarize_recordings(recordings: Iterable[Recording], diarizer: Diarizer) -> tuple[Diarized, Skipped]:
    """Diarizes each recording that can be read.

    Returns:
        Id and turns of each, in their order, and a row for each one left out.
    """
    results, skipped = [], []
    for recording in recordings:
        try:
            turns = diarizer(recording.blocks())
        except BadAudio as error:
            skipped.append(skipped_row(recording.id, error.path, error.reason))
            continue
        shift = recording.offset
        turns = [turn._replace(start=turn.start + shift, end=turn.end + shift) for turn in turns]
        results.append((recording.id, turns))
    return results, skipped

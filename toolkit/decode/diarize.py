"""Diarization of recordings of any length: who spoke when.

A window slides over the audio. In each chunk the segmentation model says which of its few local speakers talk
in each frame; the speaker model turns what each of them said into an embedding; clustering over all chunks
finds out which local speakers are the same person; overlap-add brings the chunks together. Memory holds one
batch of audio and, for the whole recording, only activities and embeddings.

Source: Bredin 2023, "pyannote.audio 2.1 speaker diarization pipeline", for the order of the steps.

Dimensions: B chunks, S samples, F frames, K local speakers, D embedding size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.clustering import ClusteringConfig
from toolkit.decode.embedding import EmbedFunction, embed_all, pad
from toolkit.decode.long import windows
from toolkit.decode.stitching import (
    Chunk,
    LocalSpeaker,
    Turn,
    identify,
    smooth,
    speakers_at,
    stitch,
    to_turns,
)
from toolkit.errors import UserError
from toolkit.models.base import SHORTEST_SECONDS

SegmentFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Waveforms (B, S), lengths (B,) to the probability that each speaker talks (B, F, K), frame counts (B,)."""


@dataclass
class DiarizeConfig:
    """How a long recording is cut up, put together again, and tidied."""

    window: float = 10.0
    """Seconds that the segmentation model sees at once; as long as its training chunks."""
    step: float = 2.5
    """Seconds from one window to the next; smaller is slower and a little better."""
    batch_size: int = 8
    """Windows computed together."""
    min_clean: float = 0.6
    """Seconds without overlap from which on overlap is left out; less speech is repeated up to it."""
    min_trusted: float = 2.0
    """Seconds without overlap from which on a voice may found a speaker; others only join one."""
    median: int = 11
    """Frames of the median filter over the final decisions; odd, 1 for none."""
    min_duration_on: float = 0.1
    """Shorter turns, in seconds, are dropped."""
    min_duration_off: float = 0.2
    """Shorter pauses within a speaker's turn, in seconds, are filled."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """How local speakers become speakers of the recording."""

    def __post_init__(self) -> None:
        if not 0 < self.step <= self.window:
            raise UserError(f"expected 0 < step <= window, got step={self.step}, window={self.window}")
        if self.median < 1 or self.median % 2 == 0:
            raise UserError(f"median must be odd and positive, got {self.median}")
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.min_clean < 0.1:
            raise UserError(f"min_clean must be at least 0.1 seconds, got {self.min_clean}")
        for name in ("min_trusted", "min_duration_on", "min_duration_off"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class Diarizer:
    """Two models and a configuration; calling it diarizes a recording."""

    segment: SegmentFunction
    """The segmentation model."""
    embed: EmbedFunction
    """The speaker model."""
    frame_shift: float
    """Seconds from one frame of `segment` to the next."""
    sampling_rate: int
    """Of the samples that both models take."""
    config: DiarizeConfig

    @property
    def shift(self) -> int:
        """Samples of a frame."""
        return round(self.frame_shift * self.sampling_rate)

    @property
    def step(self) -> int:
        """Frames from one window to the next: a whole number, so that all chunks share one grid."""
        return max(1, round(self.config.step / self.frame_shift))

    def __call__(self, blocks: Iterable[np.ndarray]) -> list[Turn]:
        """Diarizes one recording.

        Args:
            blocks: its samples in order, (S,) float32 of any length: one array for a short file, many for a
                long one.

        Returns:
            Turns by start time; those of one speaker do not overlap.
        """
        config = self.config
        size, step = round(config.window * self.sampling_rate), self.step * self.shift
        # Less than a frame or two makes an encoder fail, and holds nothing to hear.
        stream = (w for w in windows(blocks, size, step) if len(w) >= SHORTEST_SECONDS * self.sampling_rate)
        chunks: list[Chunk] = []
        samples = 0
        while batch := list(islice(stream, config.batch_size)):
            samples = (len(chunks) + len(batch) - 1) * step + len(batch[-1])
            chunks += self.analyse(batch)
        labels = identify(chunks, config.min_trusted, config.clustering)
        active = smooth(speakers_at(stitch(chunks, labels, self.step)), config.median)
        duration = samples / self.sampling_rate
        return to_turns(active, self.frame_shift, duration, config.min_duration_on, config.min_duration_off)

    @torch.inference_mode()
    def analyse(self, batch: list[np.ndarray]) -> list[Chunk]:
        """Finds the local speakers of each window of a batch, and embeds what each of them says.

        An embedding is made of the speaker's own samples, put end to end: an encoder that looks far to both
        sides would otherwise mix the voices of a chunk. Frames with overlap are left out where enough remains
        without.
        """
        waveforms, lengths = pad(batch)
        probabilities, frames = self.segment(waveforms, lengths)
        enough = round(self.config.min_clean * self.sampling_rate)
        owners, voices = [], []
        for row, (samples, count) in enumerate(zip(batch, frames.tolist(), strict=True)):
            activity = probabilities[row, :count].float().cpu().numpy()
            talking = activity > 0.5
            alone = talking & (talking.sum(1, keepdims=True) == 1)
            for speaker in np.flatnonzero(talking.any(0)):
                clean = int(alone[:, speaker].sum()) * self.shift
                own = np.repeat(alone[:, speaker] if clean >= enough else talking[:, speaker], self.shift)
                size = min(len(samples), len(own))
                voice = samples[:size][own[:size]]
                # Little speech is repeated: an encoder needs a few frames to say anything.
                voices.append(np.resize(voice, max(len(voice), enough)))
                owners.append((row, activity[:, speaker].astype(np.float16), clean / self.sampling_rate))
        chunks = [Chunk(count, []) for count in frames.tolist()]
        vectors = embed_all(voices, self.embed, waveforms.numel()) if voices else []
        for (row, activity, clean), vector in zip(owners, vectors, strict=True):
            chunks[row].speakers.append(LocalSpeaker(activity, vector, clean))
        return chunks

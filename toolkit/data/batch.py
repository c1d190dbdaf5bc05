"""What a task's loss receives: one batch type a task, built in loader workers, moved to the device by the loop.

Dimensions: B utterances, S samples, T encoder frames, U tokens, K speakers, C label streams.
"""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.data.audio import BadAudio, audio_paths, load_audio
from toolkit.data.validate import skipped_row


@dataclass
class AudioBatch:
    """Padded waveforms; the other batches add what their task needs."""

    ids: list[str]
    """Cut ids, in the order of the rows."""
    waveforms: Tensor
    """(B, S) float32 samples in [-1, 1], zero past an utterance's end."""
    lengths: Tensor
    """(B,) int64 valid samples."""
    seeds: Tensor
    """(B,) int64 random numbers, one an utterance, the same whatever the number of ranks."""
    seconds: float
    """Audio in the batch, without padding."""
    padded_seconds: float
    """Audio in the batch, with padding."""
    skipped: list[dict[str, str]] = field(default_factory=list, kw_only=True)
    """Cuts that could not be used: id, path and reason."""
    placeholder: bool = field(default=False, kw_only=True)
    """True if no cut could be used and one second of silence stands in, to be weighted with zero."""

    @property
    def padded(self) -> bool:
        """Whether any utterance is shorter than the longest; no tensor is looked at."""
        return self.seconds < self.padded_seconds

    def map(self, change: Callable[[Tensor], Tensor]) -> Any:
        """A copy with every tensor changed."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return type(self)(**{k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def to(self, device: torch.device) -> Any:
        """A copy with every tensor on `device`; the copy does not wait for pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Any:
        """A copy in pinned memory; called by the loader."""
        return self.map(lambda tensor: tensor.pin_memory())


@dataclass
class SslBatch(AudioBatch):
    """Untranscribed speech, with frame labels where the objective uses them."""

    labels: Tensor | None = field(default=None, kw_only=True)
    """(B, T, C) int64 cluster of each encoder frame in each label stream, -1 past the end; None if none are used."""
    views: Tensor | None = field(default=None, kw_only=True)
    """(B, S) what the encoder hears in place of `waveforms`; None for the same."""


@dataclass
class AsrBatch(AudioBatch):
    """Transcribed speech."""

    tokens: Tensor
    """(B, U) int64, padded with 0."""
    token_lengths: Tensor
    """(B,) int64."""


@dataclass
class SpeakerBatch(AudioBatch):
    """Speech with a speaker each."""

    speakers: Tensor
    """(B,) int64 speaker class."""


@dataclass
class DiarizationBatch(AudioBatch):
    """Chunks of meetings with who speaks when."""

    targets: Tensor
    """(B, T, K) bool, True where local speaker k speaks."""


def read_audio(
    cuts: CutSet,
    rng: random.Random,
    problem: Callable[[Cut], str | None] = lambda cut: None,
    flaw: Callable[[np.ndarray], str | None] = lambda samples: None,
) -> tuple[list[Cut], dict[str, Any]]:
    """Decodes and pads the cuts of a batch; those that cannot be used are listed instead.

    Args:
        cuts: at least one.
        rng: draws the seeds.
        problem: says what else makes a cut useless to the task, as "kind: details".
        flaw: says the same of its samples (S,), once they are read.

    Returns:
        The cuts that could be read, and the arguments that every batch type shares. If none could be read the list
        is empty and the arguments describe a placeholder.
    """
    good, audio, skipped = [], [], []
    for cut in cuts:
        try:
            if reason := problem(cut):
                raise BadAudio(cut.id, reason)
            samples = load_audio(cut)
            if reason := flaw(samples):
                raise BadAudio(cut.id, reason)
            audio.append(samples)
            good.append(cut)
        except BadAudio as error:
            skipped.append(skipped_row(cut.id, ", ".join(audio_paths(cut)), error.reason))
    placeholder = not good
    rate = cuts[0].sampling_rate
    if placeholder:
        audio = [np.zeros(rate, np.float32)]
    lengths = torch.tensor([len(samples) for samples in audio])
    return good, {
        "ids": [cut.id for cut in good],
        "waveforms": pad([torch.from_numpy(samples) for samples in audio], 0.0),
        "lengths": lengths,
        "seeds": torch.tensor([rng.getrandbits(63) for _ in audio]),
        "seconds": 0.0 if placeholder else sum(map(len, audio)) / rate,
        "padded_seconds": len(audio) * max(map(len, audio)) / rate,
        "skipped": skipped,
        "placeholder": placeholder,
    }


def pad(rows: list[Tensor], value: float) -> Tensor:
    """Stacks tensors whose first dimension differs, filling up with `value`."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

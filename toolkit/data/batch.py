"""What a task's loss receives: one batch type a task, built in loader workers, moved to the device by the loop.

Dimensions: B utterances or sentences, S samples, T encoder frames, U tokens, K speakers, C label streams.
"""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.data.audio import BadAudio, audio_paths, load_audio
from toolkit.data.validate import skipped_row


@dataclass
class Batch:
    """What the train loop asks of a batch; `lengths` (B,) int64 are the valid elements of each row."""

    content: ClassVar[str]
    """What the rows hold, as metrics name it."""
    unit: ClassVar[str]
    """In what that is counted, in words."""
    limits: ClassVar[tuple[str, str]]
    """The settings that say how much a batch, and a row, may hold."""

    ids: list[str]
    """What each row is, in their order."""
    skipped: list[dict[str, str]] = field(default_factory=list, kw_only=True)
    """What could not be used: id, path and reason."""
    placeholder: bool = field(default=False, kw_only=True)
    """True if nothing could be used and something stands in, to be weighted with zero."""

    @property
    def amount(self) -> float:
        """How much the rows hold, without padding."""
        raise AssertionError(f"{type(self).__name__} does not say what it holds")

    @property
    def padded_amount(self) -> float:
        """The same with padding."""
        raise AssertionError(f"{type(self).__name__} does not say what it holds")

    @property
    def size(self) -> str:
        """How large the batch is, in words."""
        raise AssertionError(f"{type(self).__name__} does not say how large it is")

    def facts(self) -> dict[str, Any]:
        """What tells a batch that made trouble from others; reads tensors."""
        raise AssertionError(f"{type(self).__name__} tells nothing")

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
class AudioBatch(Batch):
    """Padded waveforms of cuts, or one second of silence as a placeholder; other batches add what their task needs."""

    content = "audio"
    unit = "s of audio"
    limits = ("data.sampler.max_duration", "data.sampler.max_seconds")

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

    @property
    def amount(self) -> float:
        """Seconds of audio."""
        return self.seconds

    @property
    def padded_amount(self) -> float:
        """Seconds, with padding."""
        return self.padded_seconds

    @property
    def size(self) -> str:
        """Rows and seconds."""
        rows = len(self.lengths)
        return f"{rows} x {self.padded_seconds / rows:.1f} s"

    def facts(self) -> dict[str, Any]:
        """Cuts and how long they are."""
        return {
            "cut_ids": self.ids,
            "seconds": (self.seconds * self.lengths / self.lengths.sum()).tolist(),
            "padded_shape": list(self.waveforms.shape),
        }

    @property
    def padded(self) -> bool:
        """Whether any utterance is shorter than the longest; no tensor is looked at."""
        return self.seconds < self.padded_seconds


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


@dataclass
class LmBatch(Batch):
    """Sentences; the ids say where they stand."""

    content = "tokens"
    unit = "tokens"
    limits = ("data.sampler.max_characters", "data.sampler.max_length")

    tokens: Tensor
    """(B, U) int64, padded with 0."""
    lengths: Tensor
    """(B,) int64 tokens of each sentence, without its end."""
    num_tokens: int
    """Of all sentences, with their ends."""
    num_characters: int
    """Of all sentences."""

    @property
    def amount(self) -> float:
        """Tokens, with the ends of sentences."""
        return self.num_tokens

    @property
    def padded_amount(self) -> float:
        """Tokens, with padding."""
        return len(self.tokens) * (self.tokens.shape[1] + 1)

    @property
    def size(self) -> str:
        """Rows and tokens."""
        return f"{len(self.tokens)} x {self.tokens.shape[1] + 1} tokens"

    def facts(self) -> dict[str, Any]:
        """Sentences and how long they are."""
        return {
            "sentences": self.ids,
            "tokens": self.lengths.tolist(),
            "padded_shape": list(self.tokens.shape),
        }


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

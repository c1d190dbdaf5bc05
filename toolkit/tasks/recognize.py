"""A trained recogniser, applied to recordings.

Dimensions: B batch, S samples, T frames, V symbols.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.data.batch import pad
from toolkit.data.codecs import BadAudio
from toolkit.data.recordings import Recording, first_samples
from toolkit.data.validate import skipped_row
from toolkit.decode.ctc import align, greedy
from toolkit.decode.hypothesis import Word, in_seconds
from toolkit.errors import UserError
from toolkit.tasks.apply import Skipped, pick_device
from toolkit.tasks.load import load_task_and_model
from toolkit.text.tokenizer import SPACE, UNKNOWN


class Hypothesis(NamedTuple):
    """What was recognised in a recording."""

    id: str
    text: str
    tokens: list[Word]
    words: list[Word]


class Recognizer:
    """The CTC model of a model directory, as a function.

    Args:
        folder: the model directory.
        device: "cpu", "cuda", ..., or "auto": the GPU if there is one.
        max_seconds: longer recordings are refused.
        batch_seconds: audio that is computed together, with padding.

    Raises:
        UserError: not the directory of a recogniser, or no such device.
    """

    def __init__(self, folder: str | Path, device: str, max_seconds: float, batch_seconds: float) -> None:
        self.device = pick_device(device)
        self.task, self.model = load_task_and_model(folder, self.device)
        if self.task.config.task != "asr":
            raise UserError(f"{folder}: found a model of the task {self.task.config.task!r}, expected 'asr'")
        self.tokenizer = self.task.tokenizer
        self.sampling_rate: int = self.task.config.speech.frontend.sample_rate
        self.max_seconds, self.batch_seconds = max_seconds, batch_seconds

    def recognize(
        self, recordings: Iterable[Recording], texts: dict[str, str] | None, skipped: Skipped
    ) -> Iterator[Hypothesis]:
        """Recognises each recording that can be read, in their order.

        Args:
            recordings: what to recognise; read a few hundred at a time.
            texts: id -> what is said; then the times of its tokens are found instead of other words.
            skipped: gets a row for each recording left out.
        """
        recordings = iter(recordings)
        while block := list(islice(recordings, 256)):
            readable, samples = self._read(block, texts, skipped)
            for recording, log_probs in zip(readable, self._log_probs(samples), strict=True):
                try:
                    yield self._hypothesis(recording.id, log_probs, texts)
                except ValueError as error:
                    skipped.append(skipped_row(recording.id, recording.path, f"does not fit: {error}"))

    def _read(
        self, block: list[Recording], texts: dict[str, str] | None, skipped: Skipped
    ) -> tuple[list[Recording], list[np.ndarray]]:
        readable, samples = [], []
        for recording in block:
            try:
                if texts is not None and not texts.get(recording.id):
                    raise BadAudio(recording.path, "no transcript: there is nothing to align")
                audio = first_samples(
                    recording.blocks(), self.max_seconds + 1, self.sampling_rate, recording.path
                )
                if len(audio) > self.max_seconds * self.sampling_rate:
                    raise BadAudio(recording.path, f"too long: over {self.max_seconds:g} s (--max-seconds)")
            except BadAudio as error:
                skipped.append(skipped_row(recording.id, error.path, error.reason))
                continue
            readable.append(recording)
            samples.append(audio)
        return readable, samples

    @torch.no_grad()
    def _log_probs(self, samples: list[np.ndarray]) -> list[Tensor]:
        """(T, V) for each recording; those of like length are computed together."""
        results: list[Tensor | None] = [None] * len(samples)
        order = sorted(range(len(samples)), key=lambda index: -len(samples[index]))
        while order:
            count = max(1, int(self.batch_seconds * self.sampling_rate / len(samples[order[0]])))
            chosen, order = order[:count], order[count:]
            waveforms = pad([torch.from_numpy(samples[index]) for index in chosen], 0.0)
            lengths = torch.tensor([len(samples[index]) for index in chosen])
            output = self.model(waveforms.to(self.device), lengths.to(self.device))
            for index, row, length in zip(
                chosen, output.log_probs.cpu(), output.lengths.tolist(), strict=True
            ):
                results[index] = row[:length]
        return results

    def _hypothesis(self, name: str, log_probs: Tensor, texts: dict[str, str] | None) -> Hypothesis:
        shift = self.model.speech.frame_shift
        if texts is None:
            tokens = greedy(log_probs[None], torch.tensor([len(log_probs)]))[0][0].tokens
        else:
            tokens = align(log_probs, self.tokenizer.encode(texts[name]))
        tokens = in_seconds(tokens, shift)
        symbols = [Word(self.tokenizer.tokens[t.id], t.start, t.end, t.score) for t in tokens]
        return Hypothesis(name, self.tokenizer.decode(t.id for t in tokens), symbols, join_words(symbols))


def join_words(symbols: list[Word]) -> list[Word]:
    """Joins symbols into words; "▁" begins a new one, alone or before letters.

    >>> join_words([Word("a", 0.0, 0.1, -1.0), Word("b", 0.1, 0.2, -3.0), Word("▁", 0.2, 0.3, 0.0)])
    [Word(text='ab', start=0.0, end=0.2, score=-2.0)]
    """
    groups: list[list[Word]] = [[]]
    for symbol in symbols:
        if symbol.text.startswith(SPACE):
            groups.append([])
        letters = symbol.text.replace(SPACE, "")
        if letters and letters != UNKNOWN:
            groups[-1].append(symbol._replace(text=letters))
    return [
        Word(
            "".join(part.text for part in group),
            group[0].start,
            group[-1].end,
            sum(part.score for part in group) / len(group),
        )
        for group in groups
        if group
    ]


def ctm_line(name: str, word: Word) -> str:
    """A line of a CTM file: recording, channel, start, duration, word, confidence."""
    return f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text} {np.exp(word.score):.4f}\n"

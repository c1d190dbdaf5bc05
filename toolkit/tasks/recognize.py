"""A trained recogniser, applied to recordings of any length.

Dimensions: B batch, S samples, T frames, D encoder width, V symbols.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from toolkit.decode.ctc import align
from toolkit.decode.formats import spaceless
from toolkit.decode.hypothesis import Hypothesis, Timed, Token, Word, in_seconds
from toolkit.decode.long import between, seam, windows
from toolkit.decode.registry import SEARCHES, Search
from toolkit.errors import UserError
from toolkit.models.base import SHORTEST_SECONDS
from toolkit.tasks.apply import Skipped, pick_device
from toolkit.tasks.load import load_task_and_model
from toolkit.tasks.searches import read_searches, simplest
from toolkit.text.tokenizer import SPACE, UNKNOWN

AT_ONCE = 256
"""Windows that are read before they are sorted by length and searched."""


class Reading(NamedTuple):
    """What a search found in a recording; times are seconds from its start."""

    text: str
    tokens: list[Word]
    """The symbols of the tokens."""
    words: list[Word]
    score: float
    """Log-probability, with what was fused in; of a long recording, the sum over its windows."""


class Recognized(NamedTuple):
    """A recording and what each search found in it."""

    id: str
    readings: dict[str, list[Reading]]
    """Name of the search -> readings, best first; of a long recording the best only."""


class Window(NamedTuple):
    """A piece of a recording that is searched at once."""

    recording: Recording
    index: int
    """Which of the recording's windows this is."""
    samples: np.ndarray
    """(S,) float32; none where the recording turned out to be bad."""
    last: bool
    """Whether nothing follows."""
    reason: str | None = None
    """What is wrong with the recording, found as it was read."""


@dataclass
class WindowConfig:
    """How recordings are cut up."""

    seconds: float = 60.0
    """Longer recordings are recognised in windows of this length."""
    overlap: float = 6.0
    """Seconds that two windows share; at most half a window."""

    def __post_init__(self) -> None:
        if self.seconds < 2 * SHORTEST_SECONDS or not 0 <= self.overlap <= self.seconds / 2:
            raise UserError(
                f"window: found {self.seconds:g} s with an overlap of {self.overlap:g} s, expected at least "
                f"{2 * SHORTEST_SECONDS} s and an overlap of at most half of that"
            )


class Recognizer:
    """The model of a model directory, as a function.

    Args:
        folder: the model directory.
        device: "cpu", "cuda", ..., or "auto": the GPU if there is one.
        window: how long recordings are cut up.
        batch_seconds: audio that is computed together, with padding.

    Raises:
        UserError: not the directory of a recogniser, or no such device.
    """

    def __init__(self, folder: str | Path, device: str, window: WindowConfig, batch_seconds: float) -> None:
        self.folder = Path(folder)
        self.device = pick_device(device)
        self.task, self.model = load_task_and_model(folder, self.device)
        if self.task.config.task != "asr":
            raise UserError(f"{folder}: found a model of the task {self.task.config.task!r}, expected 'asr'")
        self.tokenizer = self.task.tokenizer
        self.sampling_rate: int = self.task.config.speech.frontend.sample_rate
        self.frame_shift: float = self.model.speech.frame_shift
        self.window, self.batch_seconds = window, batch_seconds

    def searches(self, named: str | None, overrides: Sequence[str] = ()) -> dict[str, Search]:
        """What `recognize` takes, from `read_searches`; UserError for those that the model cannot do."""
        configs = read_searches(named or simplest(self.model), overrides)
        parts = self.model, self.tokenizer, self.device
        return {name: SEARCHES[config.name](config, *parts) for name, config in configs.items()}

    def recognize(
        self, recordings: Iterable[Recording], searches: Mapping[str, Search], skipped: Skipped
    ) -> Iterator[Recognized]:
        """Recognises each recording that can be read, in their order.

        The encoder hears each of them once, whatever the number of searches.

        Args:
            recordings: what to recognise; a few hundred windows of them are held at a time.
            searches: by the name that their readings are to have.
            skipped: gets a row for each recording left out.
        """
        pieces = (piece for recording in recordings for piece in self._windows(recording))
        found: list[dict[str, list[Hypothesis]]] = []
        while block := list(islice(pieces, AT_ONCE)):
            whole = [piece for piece in block if piece.reason is None]
            results = iter(self._search([piece.samples for piece in whole], searches))
            for piece in block:
                if piece.index == 0:
                    found = []
                if piece.reason is not None:
                    skipped.append(skipped_row(piece.recording.id, piece.recording.path, piece.reason))
                    continue
                found.append(next(results))
                if piece.last:
                    readings = {name: self.readings([window[name] for window in found]) for name in searches}
                    yield Recognized(piece.recording.id, readings)

    @torch.inference_mode()
    def align(
        self, recordings: Iterable[Recording], texts: Mapping[str, str], skipped: Skipped
    ) -> Iterator[Recognized]:
        """Finds the times of what is known to be said; readings have the name "align".

        Args:
            recordings: no longer than a window.
            texts: id -> what is said.
            skipped: gets a row for each recording left out.

        Raises:
            UserError: the model has no CTC head.
        """
        if self.model.ctc is None:
            raise UserError(
                f"{self.folder}: found no CTC head, expected one to align with (ctc.scale over 0)"
            )
        recordings = iter(recordings)
        while block := list(islice(recordings, AT_ONCE)):
            readable, samples = self._readable(block, texts, skipped)
            for recording, frames in zip(readable, self._frames(samples), strict=True):
                log_probs = self.model.ctc_log_probs(frames[None].to(self.device))[0]
                try:
                    tokens = align(log_probs, self.tokenizer.encode(texts[recording.id]))
                except ValueError as error:
                    skipped.append(skipped_row(recording.id, recording.path, f"does not fit: {error}"))
                    continue
                score = sum(token.score * (token.end - token.start) for token in tokens)
                yield Recognized(recording.id, {"align": self.readings([[Hypothesis(tokens, score)]])})

    def _windows(self, recording: Recording) -> Iterator[Window]:
        rate = self.sampling_rate
        size, overlap = round(self.window.seconds * rate), round(self.window.overlap * rate)
        pieces = windows(recording.blocks(), size, size - overlap)
        count, before = 0, None
        try:
            for piece in pieces:
                if before is not None:
                    yield Window(recording, count - 1, before, last=False)
                before, count = piece, count + 1
        except BadAudio as error:
            yield Window(recording, count, np.zeros(0, np.float32), True, error.reason)
            return
        if before is None or len(before) < SHORTEST_SECONDS * rate:
            reason = f"too short: {0 if before is None else len(before)} samples, limit {SHORTEST_SECONDS} s"
            yield Window(recording, 0, np.zeros(0, np.float32), True, reason)
            return
        yield Window(recording, count - 1, before, last=True)

    def _readable(
        self, block: list[Recording], texts: Mapping[str, str], skipped: Skipped
    ) -> tuple[list[Recording], list[np.ndarray]]:
        readable, samples = [], []
        longest = self.window.seconds
        for recording in block:
            try:
                if not texts.get(recording.id):
                    raise BadAudio(recording.path, "no transcript: there is nothing to align")
                audio = first_samples(recording.blocks(), longest + 1, self.sampling_rate, recording.path)
                if len(audio) > longest * self.sampling_rate:
                    raise BadAudio(recording.path, f"too long: over {longest:g} s (--window-seconds)")
            except BadAudio as error:
                skipped.append(skipped_row(recording.id, error.path, error.reason))
                continue
            readable.append(recording)
            samples.append(audio)
        return readable, samples

    def _batches(self, samples: list[np.ndarray]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Which recordings, their encoder frames (B, T, D) and (B,) how many; those of like length together."""
        order = sorted(range(len(samples)), key=lambda index: -len(samples[index]))
        while order:
            count = max(1, int(self.batch_seconds * self.sampling_rate / len(samples[order[0]])))
            chosen, order = order[:count], order[count:]
            waveforms = pad([torch.from_numpy(samples[index]) for index in chosen], 0.0)
            lengths = torch.tensor([len(samples[index]) for index in chosen])
            output = self.model.speech(waveforms.to(self.device), lengths.to(self.device))
            yield chosen, output.frames, output.lengths

    def _frames(self, samples: list[np.ndarray]) -> list[Tensor]:
        """(T, D) encoder frames of each recording, on the CPU."""
        results: dict[int, Tensor] = {}
        for chosen, frames, lengths in self._batches(samples):
            rows = zip(chosen, frames.cpu(), lengths.tolist(), strict=True)
            results.update((index, row[:length]) for index, row, length in rows)
        return [results[index] for index in range(len(samples))]

    @torch.inference_mode()
    def _search(
        self, samples: list[np.ndarray], searches: Mapping[str, Search]
    ) -> list[dict[str, list[Hypothesis]]]:
        results: list[dict[str, list[Hypothesis]]] = [{} for _ in samples]
        for chosen, frames, lengths in self._batches(samples):
            for name, search in searches.items():
                for index, hypotheses in zip(chosen, search(frames, lengths), strict=True):
                    results[index][name] = hypotheses
        return results

    def readings(self, windows: list[list[Hypothesis]]) -> list[Reading]:
        """The readings of a recording from the n-best lists of its windows, whose times count from their own starts."""
        if len(windows) == 1:
            return [self._reading(self._timed(hypothesis, 0.0)) for hypothesis in windows[0]]
        step = self.window.seconds - self.window.overlap
        tokens: list[Token] = []
        words: list[Word] = []
        score, begin, known = 0.0, -math.inf, True
        for index, (best, *_) in enumerate(windows):
            part = self._timed(best, index * step)
            own = self._words(part)
            start = (index + 1) * step
            last = index + 1 == len(windows)
            end = math.inf if last else seam(own, start, start + self.window.overlap)
            tokens += between(part.tokens, begin, end)
            words += between(own, begin, end)
            score, begin, known = score + part.score, end, known and part.words is not None
        return [self._reading(Hypothesis(tokens, score, words if known else None))]

    def _timed(self, hypothesis: Hypothesis, offset: float) -> Hypothesis:
        """With times in seconds, `offset` later."""
        tokens, words, shift = hypothesis.tokens, hypothesis.words, self.frame_shift
        return hypothesis._replace(
            tokens=_later(in_seconds(tokens, shift), offset),
            words=None if words is None else _later(in_seconds(words, shift), offset),
        )

    def _words(self, hypothesis: Hypothesis) -> list[Word]:
        if hypothesis.words is not None:
            return hypothesis.words
        symbols = self._symbols(hypothesis.tokens)
        if self.tokenizer.joins:
            return join_words(symbols)
        return [symbol for symbol in symbols if symbol.text != UNKNOWN]

    def _symbols(self, tokens: Iterable[Token]) -> list[Word]:
        return [Word(self.tokenizer.tokens[token.id], *token[1:]) for token in tokens]

    def _reading(self, hypothesis: Hypothesis) -> Reading:
        words = self._words(hypothesis)
        if hypothesis.words is None:
            text = self.tokenizer.decode(token.id for token in hypothesis.tokens)
        else:
            text = " ".join(word.text for word in words)
        return Reading(text, self._symbols(hypothesis.tokens), words, hypothesis.score)


def _later(items: list[Timed], seconds: float) -> list[Timed]:
    return [item._replace(start=item.start + seconds, end=item.end + seconds) for item in items]


def join_words(symbols: list[Word]) -> list[Word]:
    """Joins symbols into words; "▁" begins a new one, alone or before letters. So does a Chinese or Japanese one.

    >>> join_words([Word("a", 0.0, 0.1, -1.0), Word("b", 0.1, 0.2, -3.0), Word("▁", 0.2, 0.3, 0.0)])
    [Word(text='ab', start=0.0, end=0.2, score=-2.0)]
    """
    groups: list[list[Word]] = [[]]
    before = ""
    for symbol in symbols:
        if symbol.text.startswith(SPACE) or spaceless(symbol.text[:1]) or spaceless(before):
            groups.append([])
        before = symbol.text[-1:]
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

"""Recognition of audio while it arrives: features, a causal Zipformer and a search, each going on where it stopped.

What is recognised is what the same search finds in the output of the same encoder for the whole recording, when that
is given the same chunks.

Dimensions: N streams, S samples, T frames, F features, W feature frames that a chunk needs, L frames of left context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.decode.endpoint import EndpointConfig
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.incremental import IncrementalSearch
from toolkit.decode.online_fbank import OnlineFbank
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel
from toolkit.models.frontend import FbankFrontend
from toolkit.models.zipformer.encoder import ZipformerEncoder
from toolkit.models.zipformer.layer import LayerState
from toolkit.models.zipformer.streaming import StreamState, ZipformerStream

STREAM_AXES = LayerState(1, 1, 1, 1, 0, 0)
"""Which dimension of a layer's state counts streams."""


@dataclass
class StreamingConfig:
    """Recognition of streams."""

    chunk_size: int | None = None
    """Frames of a chunk, of the first stack; null for the encoder's own."""
    left_context: int | None = None
    """Frames before its chunk that a frame sees, of the first stack; null for the encoder's own."""
    tail_seconds: float = 0.0
    """Silence that is put behind the end of a stream, for models that need it to say their last tokens."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    """Where a stream is cut into utterances."""

    def __post_init__(self) -> None:
        if not self.tail_seconds >= 0:
            raise ValueError(f"tail_seconds must not be negative, got {self.tail_seconds}")


class Segment(NamedTuple):
    """An utterance of a stream."""

    start: int
    """First frame."""
    end: int
    """The frame after its last."""
    hypotheses: list[Hypothesis]
    """Best first; times count from the start of the stream."""
    rule: str | None
    """Which rule ended it; None for the end of the stream, or if it goes on."""


class Stream:
    """One recording that is being recognised.

    Attributes:
        segments: what is over.
        finished: whether the recording is.
    """

    def __init__(self, recognizer: "StreamingRecognizer") -> None:
        self.segments: list[Segment] = []
        self.finished = False
        self._recognizer = recognizer
        self._fbank = OnlineFbank(recognizer.frontend.fbank)
        self._features = torch.zeros(0, recognizer.frontend.dim, device=recognizer.device)
        self._encoder = recognizer.encoder.initial_state(1, recognizer.device)
        self._search: Any = recognizer.search.start()
        self._chunks = self._frames = self._start = 0

    def accept(self, samples: Tensor) -> None:
        """Takes the next samples (S,), in [-1, 1], any number of them.

        Raises:
            ValueError: the recording is over.
        """
        if self.finished:
            raise ValueError("finish() was called: a new recording needs a new stream")
        self._features = torch.cat([self._features, self._fbank.accept(samples)])

    def finish(self) -> None:
        """Says that no more samples follow; `StreamingRecognizer.decode` then recognises what is left."""
        if not self.finished:
            self.accept(torch.zeros(self._recognizer.tail))
            self._features = torch.cat([self._features, self._fbank.finish()])
            self.finished = True
            if not self.ready:
                self._end(None)

    @property
    def ready(self) -> bool:
        """Whether there is a chunk to be recognised."""
        if not self.finished:
            return len(self._features) >= self._recognizer.encoder.window
        frames, encoder = self._fbank.frames, self._recognizer.encoder
        return 0 < frames and self._chunks * encoder.chunk < encoder.encoder.latent_lengths(frames)

    def partial(self) -> Segment:
        """What is recognised of the utterance that goes on."""
        hypotheses = self._recognizer.search.hypotheses(self._search, final=False)
        return Segment(self._start, self._frames, hypotheses, None)

    def _window(self, size: int) -> tuple[Tensor, int]:
        window = self._features[:size]
        return pad(window, (0, 0, 0, size - len(window))), len(window)

    def _advance(self, encoder: StreamState, search: Any, frames: int) -> None:
        """Takes over the states after one more chunk, and ends the utterance if it is time."""
        self._encoder, self._search = encoder, search
        self._features = self._features[self._recognizer.encoder.step :]
        self._chunks += 1
        self._frames += frames
        if self.finished and not self.ready:
            self._end(None)
        elif rule := self._rule():
            self._end(rule)

    def _rule(self) -> str | None:
        recognizer = self._recognizer
        if not recognizer.config.endpoint.enabled:
            return None
        tokens = self.partial().hypotheses[0].tokens
        silent_since = tokens[-1].end if tokens else self._start
        counts = self._frames - self._start, self._frames - silent_since
        seconds, silence = (count * recognizer.frame_shift for count in counts)
        return recognizer.config.endpoint.rule(seconds, silence, bool(tokens))

    def _end(self, rule: str | None) -> None:
        """Ends the utterance; silence alone is none, unless there is nothing else in the stream."""
        hypotheses = self._recognizer.search.hypotheses(self._search)
        if hypotheses[0].tokens or (self.finished and not self.segments):
            self.segments.append(Segment(self._start, self._frames, hypotheses, rule))
        self._start = self._frames
        self._search = self._recognizer.search.start(self._frames)


class StreamingRecognizer:
    """Recognises streams, any of them together.

    Args:
        model: with filter banks that are not normalised, and a causal Zipformer; in evaluation.
        search: one that takes utterances in pieces.
        config: chunks and ends of utterances.
        device: of the model.

    Attributes:
        frame_shift: seconds from one frame of the search to the next.
        sample_rate: samples a second of the streams.

    Raises:
        UserError: model, search or sizes of chunks are not for streaming.
    """

    def __init__(
        self, model: AsrModel, search: Any, config: StreamingConfig, device: torch.device | str = "cpu"
    ) -> None:
        frontend, encoder = model.speech.frontend, model.speech.encoder
        if not isinstance(encoder, ZipformerEncoder):
            name = model.speech.config.encoder.name
            raise UserError(f"speech.encoder.name: found {name!r}, expected 'zipformer' for streaming")
        if not isinstance(frontend, FbankFrontend):
            name = model.speech.config.frontend.name
            raise UserError(f"speech.frontend.name: found {name!r}, expected 'fbank' for streaming")
        if frontend.normalize:
            raise UserError(
                "speech.frontend.normalize: found true, expected false for streaming: it needs the whole recording"
            )
        if not isinstance(search, IncrementalSearch):
            name = type(search).Config.name
            raise UserError(
                f"search: found {name!r}, expected ctc_greedy, greedy or modified_beam for streaming"
            )
        self.search, self.config, self.device = search, config, torch.device(device)
        self.frontend = frontend
        self.encoder = ZipformerStream(encoder, config.chunk_size, config.left_context)
        self.frame_shift = model.speech.frame_shift
        self.sample_rate: int = frontend.fbank.config.sample_rate
        self.tail = round(config.tail_seconds * self.sample_rate)

    def start(self) -> Stream:
        """A new stream."""
        return Stream(self)

    @torch.no_grad()
    def decode(self, streams: Sequence[Stream]) -> None:
        """Recognises all chunks that are there, one of each stream together."""
        while ready := [stream for stream in streams if stream.ready]:
            windows, counts = zip(*(stream._window(self.encoder.window) for stream in ready), strict=True)
            lengths = torch.tensor(counts, device=self.device)
            states = join_states([stream._encoder for stream in ready])
            frames, lengths, state = self.encoder(torch.stack(windows), lengths, states)
            found = self.search.extend(frames, lengths, [stream._search for stream in ready])
            parts = ready, split_states(state, len(ready)), found, lengths.tolist()
            for stream, encoder, search, count in zip(*parts, strict=True):
                stream._advance(encoder, search, count)

    def __call__(self, waveforms: Sequence[Tensor]) -> list[list[Segment]]:
        """Whole recordings (S,) to what is recognised of each."""
        streams = [self.start() for _ in waveforms]
        for stream, samples in zip(streams, waveforms, strict=True):
            stream.accept(samples)
            stream.finish()
        self.decode(streams)
        return [stream.segments for stream in streams]


def join_states(states: Sequence[StreamState]) -> StreamState:
    """The states of several encoder streams as one."""
    layers = [
        LayerState(
            *(
                torch.cat(parts, axis)
                for parts, axis in zip(zip(*layer, strict=True), STREAM_AXES, strict=True)
            )
        )
        for layer in zip(*(state.layers for state in states), strict=True)
    ]
    embeds = [state.embed for state in states if state.embed is not None]
    processed = torch.cat([state.processed for state in states])
    return StreamState(layers, torch.cat(embeds) if embeds else None, processed)


def split_states(state: StreamState, count: int) -> list[StreamState]:
    """The reverse of `join_states`."""
    layers = [
        [LayerState(*parts) for parts in zip(*map(torch.chunk, layer, [count] * 6, STREAM_AXES), strict=True)]
        for layer in state.layers
    ]
    embeds = [None] * count if state.embed is None else state.embed.chunk(count)
    rows = zip(zip(*layers, strict=True), embeds, state.processed.chunk(count), strict=True)
    return [StreamState(list(own), embed, processed) for own, embed, processed in rows]

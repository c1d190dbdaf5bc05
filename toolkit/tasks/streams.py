"""A trained recogniser, applied to recordings as if they arrived in real time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from toolkit import config
from toolkit.data.codecs import BadAudio
from toolkit.data.recordings import Recording
from toolkit.data.validate import skipped_row
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.latency import Simulation, simulate
from toolkit.decode.registry import Search
from toolkit.decode.streaming import StreamingConfig, StreamingRecognizer
from toolkit.errors import UserError
from toolkit.models.base import SHORTEST_SECONDS
from toolkit.tasks.apply import Skipped
from toolkit.tasks.recognize import Recognized, Recognizer


def read_streaming(overrides: Sequence[str]) -> StreamingConfig:
    """The configuration of streaming from settings such as "--streaming.chunk_size=16"; UserError for others."""
    raw = config.apply_overrides({}, overrides)
    return config.build(StreamingConfig, raw.get("streaming", {}), "command line: streaming")


def recognize_streams(
    recognizer: Recognizer,
    recordings: Iterable[Recording],
    searches: Mapping[str, Search],
    settings: StreamingConfig,
    simulations: Mapping[str, list[Simulation]],
    skipped: Skipped,
) -> Iterator[Recognized]:
    """Recognises each recording that can be read chunk by chunk, once for every search.

    Args:
        recognizer: of a model that can be streamed.
        recordings: what to recognise.
        searches: by the name that their readings are to have.
        settings: chunks and ends of utterances.
        simulations: gets the course of each recording, for its search.
        skipped: gets a row for each recording left out.

    Raises:
        UserError: model, searches or chunks are not for streaming.
    """
    streams = {
        name: StreamingRecognizer(recognizer.model, search, settings, recognizer.device)
        for name, search in searches.items()
    }
    if recognizer.device.type != "cpu":
        raise UserError(f"device: found {recognizer.device}, expected cpu, on which streams are simulated")
    for recording in recordings:
        try:
            blocks = [np.zeros(0, np.float32), *recording.blocks()]
            samples = torch.from_numpy(np.concatenate(blocks))
            if len(samples) < SHORTEST_SECONDS * recognizer.sampling_rate:
                raise BadAudio(
                    recording.path, f"too short: {len(samples)} samples, limit {SHORTEST_SECONDS} s"
                )
        except BadAudio as error:
            skipped.append(skipped_row(recording.id, error.path, error.reason))
            continue
        readings = {}
        for name, stream in streams.items():
            simulation = simulate(stream, samples)
            simulations[name].append(simulation)
            best = [segment.hypotheses[0] for segment in simulation.segments]
            tokens = [token for hypothesis in best for token in hypothesis.tokens]
            whole = Hypothesis(tokens, sum(hypothesis.score for hypothesis in best))
            readings[name] = recognizer.readings([[whole]])
        yield Recognized(recording.id, readings)

"""How soon a streaming recogniser says what it heard, found by simulating audio that arrives in real time.

All times are in seconds from the start of a recording.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from toolkit.decode.hypothesis import Token, in_seconds
from toolkit.decode.streaming import Segment, Stream, StreamingRecognizer


class Emission(NamedTuple):
    """A token and when it was there for good: since then, neither it nor a token before it has changed."""

    token: Token
    """With its times."""
    heard: float
    """How much audio had arrived by then."""
    shown: float
    """When that audio had been recognised: later than `heard` by what the computation took."""


class Simulation(NamedTuple):
    """What came of a recording."""

    segments: list[Segment]
    """Its utterances."""
    emissions: list[Emission]
    """All of their tokens."""
    audio_seconds: float
    """How long it is."""
    compute_seconds: float
    """What recognising it took."""


class Latency(NamedTuple):
    """Latencies of the tokens of many recordings, from the start of a token to when it was shown."""

    mean: float
    median: float
    percentile90: float
    greatest: float
    algorithmic: float
    """Mean of what is left if computation takes no time."""
    real_time_factor: float
    """Seconds of computation for a second of audio."""


def simulate(
    recognizer: StreamingRecognizer,
    samples: Tensor,
    block_seconds: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> Simulation:
    """Lets a recording arrive in real time; nothing waits, the clock of the simulation is put forward instead.

    Args:
        recognizer: what recognises it.
        samples: (S,) in [-1, 1].
        block_seconds: audio that arrives at once.
        clock: seconds of computation.
    """
    stream, rate = recognizer.start(), recognizer.sample_rate
    size = max(1, round(block_seconds * rate))
    blocks = samples.split(size) if len(samples) else ()
    said: list[tuple[float, float]] = []
    ids: list[int] = []
    now = spent = arrived = 0.0
    for index in range(len(blocks) + 1):
        last = index == len(blocks)
        arrived = len(samples) / rate if last else min((index + 1) * size, len(samples)) / rate
        begin = clock()
        if last:
            stream.finish()
        else:
            stream.accept(blocks[index])
        recognizer.decode([stream])
        tokens = _tokens(stream)
        taken = clock() - begin
        spent += taken
        now = max(now, arrived) + taken
        new = [token.id for token in tokens]
        kept = next(
            (i for i, pair in enumerate(zip(ids, new, strict=False)) if pair[0] != pair[1]), len(said)
        )
        said = [*said[: min(kept, len(new))], *[(arrived, now)] * (len(new) - kept)]
        ids = new
    timed = in_seconds(_tokens(stream), recognizer.frame_shift)
    emissions = [Emission(token, *times) for token, times in zip(timed, said, strict=True)]
    return Simulation(stream.segments, emissions, len(samples) / rate, spent)


def latency(simulations: Sequence[Simulation]) -> Latency | None:
    """Sums up simulations; None if nothing was said in any of them."""
    emissions = [emission for simulation in simulations for emission in simulation.emissions]
    if not emissions:
        return None
    delays = np.array([emission.shown - emission.token.start for emission in emissions])
    algorithmic = np.mean([emission.heard - emission.token.start for emission in emissions])
    audio = sum(simulation.audio_seconds for simulation in simulations)
    factor = sum(simulation.compute_seconds for simulation in simulations) / audio
    median, percentile90 = np.quantile(delays, [0.5, 0.9])
    numbers = delays.mean(), median, percentile90, delays.max(), algorithmic, factor
    return Latency(*map(float, numbers))


def _tokens(stream: Stream) -> list[Token]:
    """All tokens so far."""
    segments = stream.segments if stream.finished else [*stream.segments, stream.partial()]
    return [token for segment in segments for token in segment.hypotheses[0].tokens]

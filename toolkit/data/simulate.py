"""Simulated meetings: utterances of several speakers with pauses and overlaps, mixed to one channel.

The turn-taking is Lhotse's, after Landini et al., "From simulated mixtures to simulated conversations as
training data for end-to-end neural diarization" (Interspeech 2022).
"""

import inspect
import io
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.audio import load_audio
from toolkit.data.codecs import SAMPLE_RATE, write_flac
from toolkit.data.manifests import mono_cut
from toolkit.errors import UserError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from lhotse import MonoCut
    from lhotse.cut import Cut, MixedCut


@dataclass
class MeetingConfig:
    """What meetings are like."""

    min_speakers: int = 2
    """Fewest speakers in a meeting."""
    max_speakers: int = 4
    """Most speakers in a meeting."""
    min_seconds: float = 30.0
    """Least speech of a meeting, summed over its speakers."""
    max_seconds: float = 55.0
    """Most speech of a meeting, summed over its speakers."""
    pause: float = 0.2
    """Shortest pause between utterances in seconds; an exponential draw of mean 1 s is added."""
    overlap: float = 0.3
    """Shortest overlap in seconds; an exponential draw of mean 1 s is added."""
    overlap_probability: float = 0.5
    """How often a change of speaker is an overlap."""

    def __post_init__(self):
        if not 2 <= self.min_speakers <= self.max_speakers:
            raise UserError(
                f"min_speakers and max_speakers: found {self.min_speakers} and {self.max_speakers}, "
                "expected 2 <= min_speakers <= max_speakers"
            )
        if not 0 < self.min_seconds <= self.max_seconds:
            raise UserError(
                f"min_seconds and max_seconds: found {self.min_seconds} and {self.max_seconds}, "
                "expected 0 < min_seconds <= max_seconds"
            )


def simulate_meetings(
    cuts: Iterable["MonoCut"], num_meetings: int, config: MeetingConfig | None = None, seed: int = 0
) -> Iterator["MixedCut"]:
    """Makes meetings from utterances.

    Args:
        cuts: utterances with one supervision each, without silence at their ends (see `split_at_pauses`).
        num_meetings: how many to make; utterances may come back in later ones.
        config: what they are like.
        seed: decides everything; meeting i is the same however many are made.

    Yields:
        Mixed cuts with a supervision for each utterance.

    Raises:
        UserError: if there are too few speakers.
    """
    from lhotse import CutSet
    from lhotse.workflows.meeting_simulation import ConversationalMeetingSimulator

    config = config or MeetingConfig()
    speakers = defaultdict(list)
    for cut in cuts:
        speakers[cut.supervisions[0].speaker].append(cut)
    if len(speakers) < config.min_speakers:
        raise UserError(f"found {len(speakers)} speakers to meet, expected at least {config.min_speakers}")
    # Lhotse asks for the package dill here, which only its parallel form needs.
    simulate = inspect.unwrap(ConversationalMeetingSimulator.simulate)
    simulator = ConversationalMeetingSimulator(
        same_spk_pause=config.pause,
        diff_spk_pause=config.pause,
        diff_spk_overlap=config.overlap,
        prob_diff_spk_overlap=config.overlap_probability,
    )
    for index in range(num_meetings):
        rng = random.Random(f"{seed}-{index}")
        invited = rng.sample(
            sorted(speakers), min(rng.randint(config.min_speakers, config.max_speakers), len(speakers))
        )
        share = rng.uniform(config.min_seconds, config.max_seconds) / len(invited)
        chosen = [cut for name in invited for cut in _utterances(speakers[name], share, rng)]
        with _global_seed(rng.getrandbits(32)), redirect_stderr(io.StringIO()):
            meetings = simulate(
                simulator,
                CutSet.from_cuts(chosen),
                num_repeats=1,
                num_speakers_per_meeting=len(invited),
                max_duration_per_speaker=1e6,
                max_utterances_per_speaker=len(chosen),
                seed=rng.getrandbits(31),
            )
        yield meetings[0]


def _utterances(cuts: list["MonoCut"], seconds: float, rng: random.Random) -> Iterator["MonoCut"]:
    """Draws utterances of one speaker, without repetition, until they last about so long."""
    total = 0.0
    for cut in rng.sample(cuts, len(cuts)):
        if total and total + cut.duration / 2 > seconds:
            return
        total += cut.duration
        yield cut


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators that Lhotse's simulator draws from, and puts them back afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def split_at_pauses(cut: "MonoCut", pause: float = 0.5) -> list["MonoCut"]:
    """Cuts an utterance of clean speech where nothing is said, so that its supervisions mean speech.

    Args:
        cut: a cut with one supervision.
        pause: seconds of quiet that part two pieces.

    Returns:
        The pieces, without silence at their ends. The text stays only if there is one piece.
    """
    from lhotse.utils import fastcopy

    segments = speech_segments(load_audio(cut), pause)
    segment, pieces = cut.supervisions[0], []
    for number, (start, end) in enumerate(segments):
        whole = len(segments) == 1
        name = cut.id if whole else f"{cut.id}-{number}"
        duration = min(end, cut.duration) - start
        spoken = fastcopy(
            segment, id=name, start=0.0, duration=duration, text=segment.text if whole else None
        )
        pieces.append(
            fastcopy(cut, id=name, start=cut.start + start, duration=duration, supervisions=[spoken])
        )
    return pieces


def speech_segments(
    samples: np.ndarray, pause: float = 0.5, depth: float = 35.0
) -> list[tuple[float, float]]:
    """Finds speech in a clean recording by its level in frames of 10 ms.

    Args:
        samples: (S,) at 16 kHz.
        pause: seconds of quiet that end a segment.
        depth: dB below the loudest frame that count as quiet.

    Returns:
        Start and end of each segment in seconds, with a margin of 50 ms.
    """
    size = SAMPLE_RATE // 100
    frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(level > level.max() - depth)
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > round(100 * pause)) + 1)
    return [(max(part[0] - 5, 0) / 100, min(part[-1] + 6, len(frames)) / 100) for part in parts]


def render(meeting: "MixedCut", name: str, path: str | Path) -> "MonoCut":
    """Mixes a meeting down to a FLAC file.

    Args:
        meeting: what `simulate_meetings` yields.
        name: id of the new cut.
        path: the file to write.

    Returns:
        A cut with a supervision (speaker, text, language) for each utterance, in order of time.
    """
    from lhotse.utils import fastcopy

    samples = load_audio(meeting)
    samples *= min(1.0, 0.99 / max(np.abs(samples).max(), 1e-9))
    write_flac(path, [samples])
    cut = mono_cut(name, path, len(samples), SAMPLE_RATE)
    spoken = sorted(meeting.supervisions, key=lambda item: (item.start, item.speaker))
    cut.supervisions = [
        fastcopy(
            item,
            id=f"{name}-{number:03d}",
            recording_id=name,
            channel=0,
            start=round(max(item.start, 0.0), 4),
            duration=round(min(item.end, cut.duration) - max(item.start, 0.0), 4),
        )
        for number, item in enumerate(spoken)
    ]
    return cut


def write_rttm(path: str | Path, cuts: Iterable["Cut"]) -> None:
    """Writes who speaks when, one RTTM line a supervision."""
    with atomic_write(path) as file:
        for cut in cuts:
            for item in sorted(cut.supervisions, key=lambda item: item.start):
                times = f"{item.start:.3f} {item.duration:.3f}"
                file.write(f"SPEAKER {cut.id} 1 {times} <NA> <NA> {item.speaker} <NA> <NA>\n")


def write_uem(path: str | Path, cuts: Iterable["Cut"]) -> None:
    """Writes which part of each recording is scored: all of it."""
    with atomic_write(path) as file:
        for cut in cuts:
            file.write(f"{cut.id} 1 0.000 {cut.duration:.3f}\n")


def overlap_share(cuts: Iterable["Cut"]) -> float:
    """Share of the speech time during which two or more speak."""
    speech = overlap = 0.0
    for cut in cuts:
        edges = sorted(edge for item in cut.supervisions for edge in ((item.start, 1), (item.end, -1)))
        active = 0
        for (time, change), (after, _) in zip(edges, [*edges[1:], edges[-1]], strict=True):
            active += change
            speech += (after - time) * (active > 0)
            overlap += (after - time) * (active > 1)
    return overlap / speech if speech else 0.0

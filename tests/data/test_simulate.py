"""Simulated meetings."""

import random

import numpy as np
import pytest

from toolkit.data.audio import load_audio
from toolkit.data.manifests import mono_cut
from toolkit.data.simulate import (
    MeetingConfig,
    overlap_share,
    render,
    simulate_meetings,
    speech_segments,
    split_at_pauses,
    write_rttm,
    write_uem,
)
from toolkit.data.synthetic import synthetic_cuts
from toolkit.data.validate import TASKS, check_cut
from toolkit.errors import UserError

CONFIG = MeetingConfig(min_seconds=6, max_seconds=9, max_speakers=3)


@pytest.fixture(scope="module")
def utterances():
    return list(synthetic_cuts(num_cuts=24, num_speakers=4))


def test_meetings_are_what_was_asked_for(tmp_path, utterances):
    sizes = set()
    for number, meeting in enumerate(simulate_meetings(utterances, 6, CONFIG, seed=1)):
        cut = render(meeting, f"m{number}", tmp_path / f"m{number}.flac")
        assert check_cut(cut, TASKS["diarization"], decode=True) is None
        speakers = {item.speaker for item in cut.supervisions}
        sizes.add(len(speakers))
        assert 2 <= len(speakers) <= 3
        assert all(item.text for item in cut.supervisions)
        assert [item.start for item in cut.supervisions] == sorted(item.start for item in cut.supervisions)
        assert 4 < sum(item.duration for item in cut.supervisions) < 14
        for speaker in speakers:
            own = [item for item in cut.supervisions if item.speaker == speaker]
            assert all(a.end <= b.start + 1e-3 for a, b in zip(own, own[1:], strict=False))
    assert sizes == {2, 3}


def test_mixture_is_the_sum_of_its_utterances(tmp_path, utterances):
    meeting = next(simulate_meetings(utterances, 1, CONFIG, seed=4))
    cut = render(meeting, "m", tmp_path / "m.flac")
    by_text = {(cut.supervisions[0].speaker, cut.supervisions[0].text): cut for cut in utterances}
    expected = np.zeros(cut.num_samples, np.float32)
    for item in cut.supervisions:
        samples = load_audio(by_text[item.speaker, item.text])
        start = round(item.start * 16_000)
        expected[start : start + len(samples)] += samples[: cut.num_samples - start]
    assert np.abs(load_audio(cut) - expected).max() < 2e-3


def test_seed_decides_everything_and_global_generators_stay_untouched(utterances):
    def shape(seed: int, count: int) -> list[list[tuple]]:
        meetings = simulate_meetings(utterances, count, CONFIG, seed)
        return [
            [(item.speaker, item.text, item.start) for item in meeting.supervisions] for meeting in meetings
        ]

    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = shape(0, 3)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert first == shape(0, 3) and first[:2] == shape(0, 2)
    assert first != shape(1, 3)


def test_too_few_speakers(utterances):
    alone = [cut for cut in utterances if cut.supervisions[0].speaker == "speaker00"]
    with pytest.raises(UserError, match="found 1 speakers to meet, expected at least 2"):
        next(simulate_meetings(alone, 1))


def test_config_is_checked():
    with pytest.raises(UserError, match="min_speakers and max_speakers: found 1 and 4"):
        MeetingConfig(min_speakers=1)
    with pytest.raises(UserError, match="min_seconds and max_seconds: found 9 and 5"):
        MeetingConfig(min_seconds=9, max_seconds=5)


def test_speech_is_found_by_level():
    samples = np.zeros(3 * 16_000, np.float32)
    samples += 1e-4 * np.random.default_rng(0).standard_normal(len(samples))
    for start, end in ((0.5, 1.0), (1.3, 1.5), (2.4, 2.8)):
        samples[round(start * 16_000) : round(end * 16_000)] += 0.2
    assert speech_segments(samples) == [(0.45, 1.55), (2.35, 2.85)]
    assert speech_segments(samples, pause=0.2) == [(0.45, 1.05), (1.25, 1.55), (2.35, 2.85)]


def test_pieces_between_pauses(tmp_path):
    import soundfile

    samples = np.zeros(3 * 16_000)
    samples[8000:16_000] = samples[32_000:40_000] = 0.2
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    cut = mono_cut("a", tmp_path / "a.flac", len(samples), text="two words", speaker="s")
    first, second = split_at_pauses(cut)
    assert (first.id, first.start, round(first.duration, 4)) == ("a-0", 0.45, 0.6)
    assert (second.id, second.start, round(second.duration, 4)) == ("a-1", 1.95, 0.6)
    assert first.supervisions[0].text is None and first.supervisions[0].speaker == "s"
    (whole,) = split_at_pauses(cut, pause=2.0)
    assert whole.id == "a" and whole.supervisions[0].text == "two words"
    assert round(whole.supervisions[0].duration, 4) == round(whole.duration, 4) == 2.1


def test_rttm_and_uem(tmp_path, utterances):
    meeting = render(next(simulate_meetings(utterances, 1, CONFIG)), "m", tmp_path / "m.flac")
    write_rttm(tmp_path / "m.rttm", [meeting])
    write_uem(tmp_path / "m.uem", [meeting])
    lines = [line.split() for line in (tmp_path / "m.rttm").read_text().splitlines()]
    assert len(lines) == len(meeting.supervisions)
    for line, item in zip(lines, meeting.supervisions, strict=True):
        assert line == [
            "SPEAKER",
            "m",
            "1",
            f"{item.start:.3f}",
            f"{item.duration:.3f}",
            *"<NA> <NA>".split(),
            item.speaker,
            "<NA>",
            "<NA>",
        ]
    assert (tmp_path / "m.uem").read_text() == f"m 1 0.000 {meeting.duration:.3f}\n"


def test_overlap_share():
    cut = mono_cut("a", "a.flac", 160_000, speaker="s")
    segment = cut.supervisions[0]
    cut.supervisions = [
        type(segment)("x", "a", 0.0, 4.0, speaker="x"),
        type(segment)("y", "a", 3.0, 3.0, speaker="y"),
        type(segment)("z", "a", 8.0, 2.0, speaker="z"),
    ]
    assert overlap_share([cut]) == pytest.approx(1 / 8)
    assert overlap_share([]) == 0

"""The diarization pipeline with models that read the answer from the samples."""

import numpy as np
import pytest
import torch

from toolkit.decode.clustering import ClusteringConfig
from toolkit.decode.diarize import DiarizeConfig, Diarizer
from toolkit.decode.long import windows
from toolkit.decode.stitching import Turn
from toolkit.errors import UserError

RATE, SHIFT = 1000, 20
LEVELS = {1: "a", 2: "b", 4: "c"}
"""A sample is the sum of the levels of those who talk: 3 is a and b together."""


def make(turns, seconds):
    samples = np.zeros(round(seconds * RATE), dtype=np.float32)
    for start, end, level in turns:
        samples[round(start * RATE) : round(end * RATE)] += level
    return samples


def segment(waveforms, lengths):
    """Local speakers in order of first appearance within the chunk, at most two, as a trained model might."""
    frames = waveforms.shape[1] // SHIFT
    middle = waveforms[:, : frames * SHIFT].view(len(waveforms), frames, SHIFT)[:, :, SHIFT // 2].long()
    result = torch.zeros(len(waveforms), frames, 2)
    for row, values in enumerate(middle):
        active = torch.stack([(values & level) > 0 for level in LEVELS], dim=1)
        present = sorted((int(a.int().argmax()), k) for k, a in enumerate(active.T) if a.any())
        for place, (_, speaker) in enumerate(present[:2]):
            result[row, :, place] = active[:, speaker].float()
    return result, lengths // SHIFT


def embed(waveforms, lengths):
    """The share of each level in what is heard."""
    values = waveforms.long()
    shares = torch.stack([((values & level) > 0).sum(1) / lengths for level in LEVELS], dim=1)
    return shares + 1e-3


def diarizer(**options):
    clustering = ClusteringConfig(**{k: options.pop(k) for k in list(options) if "speakers" in k})
    defaults = {
        "window": 2.0,
        "step": 0.5,
        "batch_size": 3,
        "median": 1,
        "min_clean": 0.2,
        "min_trusted": 0.2,
    }
    return Diarizer(
        segment, embed, SHIFT / RATE, RATE, DiarizeConfig(**defaults | options, clustering=clustering)
    )


TURNS = [(0.5, 3.0, 1), (2.5, 4.5, 2), (5.0, 6.5, 4), (6.5, 8.0, 1), (8.5, 9.71, 2)]


def test_finds_the_turns_across_chunks():
    found = diarizer()([make(TURNS, 10.0)])
    names = {1: "speaker01", 2: "speaker02", 4: "speaker03"}
    expected = [Turn(start, end, names[level]) for start, end, level in TURNS]
    assert [turn.speaker for turn in found] == [turn.speaker for turn in expected]
    np.testing.assert_allclose([t[:2] for t in found], [t[:2] for t in expected], atol=SHIFT / RATE)


@pytest.mark.parametrize("cut", [1, 333, 5000])
def test_blocks_of_any_size_give_the_same_answer(cut):
    samples = make(TURNS, 9.73)
    whole = diarizer()([samples])
    if cut == 1:
        samples, whole = samples[:1000], diarizer()([samples[:1000]])
    assert diarizer()(samples[i : i + cut] for i in range(0, len(samples), cut)) == whole


def test_number_of_speakers_can_be_given():
    found = diarizer(min_speakers=2, max_speakers=2)([make(TURNS, 10.0)])
    assert {turn.speaker for turn in found} == {"speaker01", "speaker02"}


def test_turns_end_with_the_recording():
    found = diarizer()([make([(0.0, 1.0, 1)], 0.513)])
    assert found == [Turn(0.0, 0.5, "speaker01")]


@pytest.mark.parametrize(
    "blocks", [[], [np.zeros(0, np.float32)], [np.zeros(7, np.float32)], [np.zeros(5000, "f")]]
)
def test_nothing_to_hear(blocks):
    assert diarizer()(blocks) == []


@pytest.mark.parametrize("size", range(1, 25))
def test_windows_cover_every_sample_once_a_step(size):
    samples = np.arange(size)
    found = list(windows([samples[:3], samples[3:]], size=8, step=3))
    assert [w[0] for w in found] == [3 * n for n in range(len(found))]
    assert all(len(w) == 8 for w in found[:-1])
    assert found[-1][-1] == size - 1
    # The last window is needed: the one before it did not reach the end.
    assert len(found) == 1 or found[-2][-1] < size - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 11.0}, "step=11.0, window=10.0"),
        ({"median": 4}, "median must be odd"),
        ({"batch_size": 0}, "batch_size"),
        ({"min_clean": 0.0}, "min_clean"),
        ({"min_trusted": -1.0}, "min_trusted"),
        ({"min_duration_on": -1.0}, "min_duration_on"),
    ],
)
def test_impossible_settings(values, message):
    with pytest.raises(UserError, match=message):
        DiarizeConfig(**values)

"""From chunks to turns, on cases small enough to work out by hand."""

import numpy as np

from toolkit.decode.clustering import ClusteringConfig
from toolkit.decode.stitching import (
    Chunk,
    LocalSpeaker,
    Turn,
    identify,
    rttm,
    smooth,
    speakers_at,
    stitch,
    to_turns,
)

A, B = np.eye(2, dtype=np.float32)


def local(activity, embedding=A, clean=1.0):
    return LocalSpeaker(np.array(activity, dtype=np.float16), embedding, clean)


def test_local_speakers_find_their_names():
    chunks = [
        Chunk(4, [local([1] * 4, A), local([1] * 4, B)]),
        Chunk(4, []),
        Chunk(4, [local([1] * 4, B + 0.1), local([1] * 4, A + 0.1)]),
    ]
    assert identify(chunks, 0.5, ClusteringConfig()).tolist() == [0, 1, 1, 0]


def test_short_speech_makes_no_speaker_of_its_own():
    odd = np.array([-1.0, -1.0], np.float32)
    chunks = [Chunk(4, [local([1] * 4, A), local([1] * 4, odd, clean=0.1)]), Chunk(4, [local([1] * 4, B)])]
    assert identify(chunks, 0.5, ClusteringConfig()).tolist() == [0, 1, 1]
    # Unless there is nothing else to go by.
    assert identify([Chunk(4, [local([1] * 4, A, clean=0.1)])], 0.5, ClusteringConfig()).tolist() == [0]


def test_silence():
    chunks = [Chunk(3, []), Chunk(2, [])]
    labels = identify(chunks, 0.5, ClusteringConfig())
    scores = stitch(chunks, labels, step=2)
    assert scores.shape == (4, 0)
    assert to_turns(smooth(speakers_at(scores), 3), 0.1, 0.4, 0, 0) == []
    assert stitch([], labels, step=2).shape == (0, 0)


def test_overlapping_chunks_are_averaged():
    chunks = [Chunk(4, [local([1, 1, 1, 0])]), Chunk(4, [local([0.5, 0.5, 1, 1], B), local([0, 1, 0, 0])])]
    scores = stitch(chunks, np.array([0, 1, 0]), step=2)
    np.testing.assert_allclose(scores, [[1, 0], [1, 0], [0.5, 0.25], [0.5, 0.25], [0, 1], [0, 1]])


def test_two_local_speakers_who_are_one_count_once():
    scores = stitch([Chunk(2, [local([1, 0.5]), local([0.5, 0.75])])], np.array([0, 0]), step=1)
    assert scores.tolist() == [[1], [0.75]]


def test_as_many_speakers_as_the_scores_add_up_to():
    scores = np.array([[0.4, 0.5, 0.0], [0.2, 0.1, 0.1], [0.9, 0.2, 0.8], [0.0, 0.3, 0.6]])
    assert speakers_at(scores).astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]


def test_median_filter_works_on_each_speaker_alone():
    active = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [1, 0]], dtype=bool)
    assert smooth(active, 3).astype(int).tolist() == [[1, 0], [1, 0], [1, 0], [1, 0], [1, 0]]
    assert np.array_equal(smooth(active, 1), active)


def test_turns_fill_pauses_then_drop_what_is_short():
    rows = ["1101100000", "0000000010", "0000011111"]
    active = np.array([[c == "1" for c in row] for row in rows]).T
    assert to_turns(active, 0.1, 0.95, min_duration_on=0.2, min_duration_off=0.15) == [
        Turn(0.0, 0.5, "speaker01"),
        Turn(0.5, 0.95, "speaker02"),
    ]


def test_rttm_line():
    assert list(rttm("meeting", [Turn(0.5, 1.75, "speaker01")])) == [
        "SPEAKER meeting 1 0.500 1.250 <NA> <NA> speaker01 <NA> <NA>"
    ]

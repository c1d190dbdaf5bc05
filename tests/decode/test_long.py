"""Windows over long recordings: what is cut, and where two windows are joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.decode.hypothesis import Word
from toolkit.decode.long import between, seam, windows

WORDS = [Word(f"w{index}", 0.7 * index + 0.1, 0.7 * index + 0.5, 0.0) for index in range(60)]
SIZE, OVERLAP = 10.0, 3.0


@given(sizes=st.lists(st.integers(0, 13), max_size=12), size=st.integers(1, 9), share=st.floats(0, 1))
def test_windows_cover_every_sample_and_start_a_step_apart(sizes, size, share):
    step = max(1, round(share * size))
    samples = np.arange(sum(sizes))
    found = list(windows(np.split(samples, np.cumsum(sizes)[:-1]) if sizes else [], size, step))
    assert all(window[0] == index * step for index, window in enumerate(found))
    assert {int(sample) for window in found for sample in window} == set(samples.tolist())
    assert all(len(window) == size for window in found[:-1])


def heard(start, words):
    """The words of a window; one that its edge cuts is misheard, and all are heard a little late."""
    end = start + SIZE
    return [
        word._replace(
            text="garbled" if word.start < start or word.end > end else word.text,
            start=max(word.start, start) + 0.04,
            end=min(word.end, end) + 0.04,
        )
        for word in words
        if word.start < end and word.end > start
    ]


@pytest.mark.parametrize("offset", [0.0, 0.13, 0.3, 0.55])
def test_joined_windows_give_every_word_once(offset):
    words = [word._replace(start=word.start + offset, end=word.end + offset) for word in WORDS]
    step, count = SIZE - OVERLAP, 6
    joined, begin = [], -np.inf
    for index in range(count):
        own = heard(index * step, words)
        end = np.inf if index == count - 1 else seam(own, (index + 1) * step, index * step + SIZE)
        joined += between(own, begin, end)
        begin = end
    assert [word.text for word in joined] == [word.text for word in words]


def test_a_seam_without_words_is_in_the_middle():
    assert seam([], 4.0, 8.0) == 6.0
    assert seam([Word("on", 3.0, 9.0, 0.0)], 4.0, 8.0) == 6.0

"""Words with times in the formats of other programs, read back."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.decode.formats import ctm_line, cues, json_line, separated, srt, textgrid, vtt
from toolkit.decode.hypothesis import Word

TEXTS = ["a", '"', '"a"b"', "é<&>", "-->", "語", "字", "twelve-chars", "a" * 30]


def speech(*texts, start=0.0, length=0.4, gap=0.1):
    """Words of equal length, one after another."""
    step = length + gap
    return [Word(t, start + i * step, start + i * step + length, -0.1) for i, t in enumerate(texts)]


@st.composite
def words(draw):
    """Words in order, some of which touch, overlap or last no time."""
    found = []
    gaps = st.sampled_from([-0.02, 0.0, 0.04, 0.5, 3.0])
    for gap, length, text in draw(
        st.lists(st.tuples(gaps, st.sampled_from([0.0, 0.04, 0.3, 2.0]), st.sampled_from(TEXTS)), max_size=12)
    ):
        start = max(0.0, found[-1].end + gap) if found else 0.0
        end = max(start + length, found[-1].end if found else 0.0)
        found.append(Word(text, start, end, -0.5))
    return found


def read_textgrid(text):
    """Tier name -> intervals, by the rules of Praat: only numbers, quoted strings and <flags> count."""
    tokens = re.findall(r'"(?:[^"]|"")*"|<exists>|(?<=[ \n])-?\d+(?:\.\d+)?(?=[ \n])', text)
    values = iter([t[1:-1].replace('""', '"') if t[0] == '"' else t for t in tokens])
    assert (next(values), next(values), float(next(values))) == ("ooTextFile", "TextGrid", 0)
    total, flag, size = float(next(values)), next(values), int(next(values))
    assert flag == "<exists>"
    tiers = {}
    for _ in range(size):
        kind, name, start, end, count = [next(values) for _ in range(5)]
        assert (kind, float(start), float(end)) == ("IntervalTier", 0, total)
        tiers[name] = [(float(next(values)), float(next(values)), next(values)) for _ in range(int(count))]
        now = 0.0
        for begin, finish, _ in tiers[name]:
            assert begin == now < finish
            now = finish
        assert now == total
    assert next(values, None) is None
    return tiers, total


@given(words(), st.floats(0, 40))
def test_textgrid(words, duration):
    tiers, total = read_textgrid(textgrid(words, words[:1], duration))
    labelled = [interval for interval in tiers["words"] if interval[2]]
    assert [text for _, _, text in labelled] == [word.text for word in words]
    assert [text for _, _, text in tiers["tokens"] if text] == [word.text for word in words[:1]]
    assert total >= round(duration, 3)
    for (start, end, _), word in zip(labelled, words, strict=True):
        assert start == pytest.approx(word.start, abs=0.04) and end == pytest.approx(word.end, abs=0.04)


def test_textgrid_of_nothing():
    tiers, total = read_textgrid(textgrid([], [], 2.5))
    assert tiers == {"words": [(0, 2.5, "")], "tokens": [(0, 2.5, "")]} and total == 2.5
    assert read_textgrid(textgrid([], []))[1] > 0


def test_subtitles_split_at_pauses_and_lengths():
    first, second = speech("one", "two"), speech("three", start=5.0)
    assert [(c.start, c.end, c.lines) for c in cues(first + second)] == [
        (0.0, 0.9, ["one two"]),
        (5.0, 5.4, ["three"]),
    ]
    lines = [line for cue in cues(speech(*["word"] * 30)) for line in cue.lines]
    assert lines[:2] == [" ".join(["word"] * 8), " ".join(["word"] * 6)] and " ".join(lines) == " ".join(
        ["word"] * 30
    )
    assert [c.lines for c in cues(speech("x" * 50, "y"))] == [["x" * 50, "y"]]
    assert [c.lines for c in cues(speech("语", "音", "a", "识"))] == [["语音 a 识"]]


@given(words())
def test_subtitles_keep_to_their_limits(words):
    found = cues(words, pause=0.4, max_seconds=4.0, max_characters=10, max_lines=2)
    shown = "".join("".join(cue.lines) for cue in found).replace(" ", "")
    assert shown == "".join(word.text for word in words)
    for cue in found:
        assert 0 <= cue.start < cue.end and 1 <= len(cue.lines) <= 2
        assert all(len(line) <= 10 or line in {word.text for word in words} for line in cue.lines)


def test_srt():
    text = srt(speech("hello", "<world>", start=3661.9996) + speech("again", start=3670.0))
    assert text == (
        "1\n01:01:02,000 --> 01:01:02,900\nhello <world>\n\n2\n01:01:10,000 --> 01:01:10,400\nagain\n"
    )
    assert srt([]) == ""


def test_vtt():
    text = vtt(speech("R&D", "-->") + speech("again", start=10.0))
    assert text == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:00.900\nR&amp;D --&gt;\n\n00:00:10.000 --> 00:00:10.400\nagain\n"
    )
    assert vtt([]) == "WEBVTT\n"


def test_json_and_ctm():
    found = speech("für", "two")
    read = json.loads(json_line("rec", "für two", found, found[:1]))
    entry = {"text": "für", "start": 0.0, "end": 0.4, "confidence": round(math.exp(-0.1), 4)}
    assert read["id"] == "rec" and read["text"] == "für two" and read["tokens"] == [entry]
    assert read["words"][0] == entry and len(read["words"]) == 2
    assert ctm_line("rec", found[1]) == f"rec 1 0.500 0.400 two {math.exp(-0.1):.4f}"


@pytest.mark.parametrize(
    ("text", "words"),
    [("今天 ok", ["今", "天", "ok"]), ("it's on", ["it's", "on"]), ("かな字", ["か", "な", "字"]), ("", [])],
)
def test_words_are_counted_in_any_writing(text, words):
    assert separated(text).split() == words

"""Formats of transcripts, and how reference and hypothesis are matched (STM with CTM as in sclite)."""

import gzip
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from toolkit.score import ScoreError
from toolkit.score.matching import Matched, match, normalise
from toolkit.score.transcripts import IGNORED, read_transcripts, read_utt2spk

STM = """\
;; a comment
f1 1 anna 2.00 5.00 <o,f0,female> a b
f1 1 ben 8.00 10.00 <o,f0,male> c d
f1 1 inter_segment_gap 12.00 14.00 IGNORE_TIME_SEGMENT_IN_SCORING
f2 1 carl 0.00 5.00 x y
f2 2 dora 0.00 5.00 z w
"""
CTM = """\
f1 1 0.5 0.2 before
f1 1 2.5 0.2 a
f1 1 3.5 0.2 b 0.98
f1 1 5.1 0.2 neara
f1 1 7.0 0.2 nearc
f1 1 8.0 0.5 c
f1 1 9.9 0.2 boundary
f1 1 10.5 0.5 gap
f1 1 13.0 0.5 ignored
f1 1 18.0 0.5 after
f2 1 1 0.1 x
f2 2 1 0.1 z
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def matched(folder: Path, ref: tuple[str, str], hyp: tuple[str, str], **options: str) -> Matched:
    """Matches a reference and a hypothesis, each given as (file name, content)."""
    sides = [write(folder / f"{side}-{name}", text) for side, (name, text) in (("ref", ref), ("hyp", hyp))]
    return match(*(read_transcripts(path) for path in sides), **options)


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("text", "utt1 one two\nutt2\n", "text"),
        ("hyp.txt", "utt1 one two\nutt2\n", "text"),
        ("hyp", "one two (utt1)\n(utt2)\n", "trn"),
        ("hyp.trn", "one two (utt1)\n(utt2)\n", "trn"),
        ("hyp.jsonl", '{"id": "utt1", "text": "one two"}\n{"id": "utt2", "text": ""}\n', "cuts"),
        ("hyp", '{"id": "utt1", "supervisions": [{"start": 0, "text": "one two"}]}\n', "cuts"),
    ],
)
def test_untimed_formats(tmp_path: Path, name: str, text: str, format: str) -> None:
    transcripts = read_transcripts(write(tmp_path / name, text))
    texts = {key: utterance.text for key, utterance in transcripts.utterances.items()}
    assert transcripts.format == format
    assert texts == ({"utt1": "one two", "utt2": ""} if "utt2" in text else {"utt1": "one two"})


def test_the_format_is_told_by_the_content_and_can_be_overridden(tmp_path: Path) -> None:
    assert read_transcripts(write(tmp_path / "a", STM)).format == "stm"
    assert read_transcripts(write(tmp_path / "b", CTM)).format == "ctm"
    digits = write(tmp_path / "c", "utt1 12 3 4 5\nutt2 6 7\n")
    assert read_transcripts(digits).format == "text"
    parenthesis = write(tmp_path / "d", "utt1 well (yes)\n")
    assert read_transcripts(parenthesis, "text").utterances["utt1"].text == "well (yes)"


@pytest.mark.parametrize("name", ["text", "ref.txt", "text.gz", "digits"])
def test_words_that_are_digits_stay_words(tmp_path: Path, name: str) -> None:
    content = "u1 1 2 3 4 5\nu2 1 7 8 9 10 11\n"
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    else:
        write(tmp_path / name, content)
    read = read_transcripts(tmp_path / name)
    assert (read.format, read.guessed) == ("text", name == "digits")
    assert [utterance.text for utterance in read.utterances.values()] == ["1 2 3 4 5", "1 7 8 9 10 11"]


def test_a_name_decides_before_the_content(tmp_path: Path) -> None:
    for name, format in (("text", "text"), ("a.txt", "text"), ("a", "ctm"), ("a.ctm", "ctm")):
        read = read_transcripts(write(tmp_path / name, "f 1 0.50 0.25 word\n"))
        assert (read.format, read.guessed) == (format, name == "a")
    assert not read_transcripts(tmp_path / "a", "ctm").guessed


@pytest.mark.parametrize(
    ("segments", "texts"),
    [
        (["<o> hello world"], ["hello world"]),
        (["<NA> hello", "<o,f0> <unk> world", "<o>"], ["hello", "<unk> world", ""]),
        (["<o> hello", "IGNORE_TIME_SEGMENT_IN_SCORING", ""], ["hello", IGNORED, ""]),
        (["<o> hello", "<o> IGNORE_TIME_SEGMENT_IN_SCORING"], ["hello", IGNORED]),
        (["<unk> hello", "world", "<unk>"], ["<unk> hello", "world", "<unk>"]),
        (["<o,f0> hello", "<unk> world", "and"], ["hello", "<unk> world", "and"]),
    ],
)
def test_labels_of_an_stm(tmp_path: Path, segments: list[str], texts: list[str]) -> None:
    lines = [f"rec A anna {start} {start + 1} {words}\n" for start, words in enumerate(segments)]
    pieces = read_transcripts(write(tmp_path / "a.stm", "".join(lines))).pieces
    assert [piece.text.lower() for piece in pieces] == texts


def test_cuts_without_a_text_are_left_out_of_the_reference(tmp_path: Path) -> None:
    spoken = '{"id": "a", "supervisions": [{"start": 0, "text": "one", "speaker": "anna"}]}\n'
    untranscribed = '{"id": "b", "supervisions": [{"start": 0}]}\n{"id": "c", "supervisions": []}\n'
    ref, hyp = ("a.jsonl", spoken + untranscribed), ("text", "a one\nb two\n")
    result = matched(tmp_path, ref, hyp)
    assert (result.refs, result.hyps, result.speakers) == ({"a": "one"}, {"a": "one"}, {"a": "anna"})
    assert (result.missing, result.extra, result.untranscribed) == (0, 0, 2)
    with pytest.raises(ScoreError, match="found 'd' .1 such., which is not in"):
        matched(tmp_path, ref, ("text", "a one\nd two\n"))
    with pytest.raises(ScoreError, match="ref-a.jsonl: found no text in its cuts .2.,"):
        matched(tmp_path, ("a.jsonl", untranscribed), hyp)
    with pytest.raises(ScoreError, match="found 'b' .1 such., which has no hypothesis"):
        matched(tmp_path, ("text", "a one\nb two\n"), ref, extra="ignore")


def test_manifests_of_lhotse(tmp_path: Path) -> None:
    from lhotse import CutSet, SupervisionSegment
    from lhotse.testing.dummies import dummy_cut

    def cut(number: int, words: str) -> object:
        supervision = SupervisionSegment(
            f"s{number}", "rec", start=0.0, duration=1.0, text=words, speaker="anna"
        )
        return dummy_cut(number, supervisions=[supervision])

    cuts = CutSet.from_cuts([cut(0, "one two"), cut(1, "three").append(cut(2, "four five")).with_id("mixed")])
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    read = read_transcripts(tmp_path / "cuts.jsonl.gz").utterances
    assert read["dummy-mono-cut-0000"][:2] == ("one two", "anna")
    assert read["mixed"][:2] == ("three four five", "anna")


def test_stm_against_ctm_as_sclite_does_it(tmp_path: Path) -> None:
    """The words that sclite 2.4.10 gives to each segment of these two files."""
    result = matched(tmp_path, ("a.stm", STM), ("a.ctm", CTM))
    assert {name: result.hyps[name] for name in result.refs} == {
        "anna-f1-1-00002000-00005000": "before a b",
        "ben-f1-1-00008000-00010000": "neara nearc c",
        "carl-f2-1-00000000-00005000": "x",
        "dora-f2-2-00000000-00005000": "z",
    }
    assert list(result.speakers.values()) == ["anna", "ben", "carl", "dora"]


def test_segments_that_overlap_as_sclite_does_it(tmp_path: Path) -> None:
    stm = "f1 1 anna 2.00 6.00 a b\nf1 1 ben 5.00 10.00 c d\n"
    ctm = "f1 1 2.5 0.2 a\nf1 1 5.3 0.5 b\nf1 1 5.6 0.5 c\nf1 1 8.0 0.5 d\n"
    result = matched(tmp_path, ("a.stm", stm), ("a.ctm", ctm))
    assert list(result.hyps.values()) == ["a b c", "d"]


@pytest.mark.slow
def test_stm_against_ctm_equals_sclite_run_now(tmp_path: Path) -> None:
    if not shutil.which("sclite"):
        pytest.skip(
            "sclite is not on the PATH; it is not on the package index (Debian's package sctk has it)"
        )
    for seed in range(50):
        rng = random.Random(seed)
        times = sorted(rng.sample(range(6000), 12))
        segments = list(zip(times[::2], times[1::2], strict=True))
        words = sorted(rng.sample(range(6500), 40))
        stm = "".join(f"f 1 spk{i:02} {a / 100} {b / 100} word\n" for i, (a, b) in enumerate(segments))
        ctm = "".join(f"f 1 {time / 100} {rng.randrange(40) / 100} w{i}\n" for i, time in enumerate(words))
        result = matched(tmp_path, ("a.stm", stm), ("a.ctm", ctm))
        command = ["sclite", "-r", "ref-a.stm", "stm", "-h", "hyp-a.ctm", "ctm", "-o", "pra", "stdout"]
        output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        lines = re.findall(r"^HYP:(.*)$", output, re.MULTILINE)
        heard = [" ".join(word for word in line.lower().split() if "*" not in word) for line in lines]
        assert heard == list(result.hyps.values()), seed


@pytest.mark.parametrize(
    ("ref", "hyp"),
    [
        (("a.ctm", "f 1 0 1 a\nf 1 1 1 b\n"), ("b.ctm", "f A 0 1 a\nf A 1 1 c\n")),
        (("a.stm", "f 1 anna 0 5 a b\n"), ("b.txt", "f a c\n")),
        (("a.txt", "f a b\n"), ("b.stm", "f 1 x 0 1 a\nf 1 y 1 2 c\n")),
        (("a.stm", "f 1 anna 0 5 a b\n"), ("b.stm", "f 1 y 2 3 c\nf 1 x 0 1 a\n")),
    ],
)
def test_other_timed_pairs_are_joined_by_recording(tmp_path: Path, ref: tuple, hyp: tuple) -> None:
    if hyp[1].startswith("f A"):
        with pytest.raises(ScoreError, match="has no hypothesis"):  # channel 1 is not channel A
            matched(tmp_path, ref, hyp)
        hyp = hyp[0], hyp[1].replace("A", "1")
    result = matched(tmp_path, ref, hyp)
    assert (result.refs, result.hyps) == ({"f": "a b"}, {"f": "a c"})


def test_missing_and_extra_hypotheses(tmp_path: Path) -> None:
    ref, hyp = ("text", "a one\nb two\nc three\n"), ("text", "a one\nx four\n")
    with pytest.raises(ScoreError, match=r"ref-text:2: found 'b' \(2 such\), which has no hypothesis"):
        matched(tmp_path, ref, hyp)
    with pytest.raises(ScoreError, match=r"hyp-text:2: found 'x' \(1 such\), which is not in"):
        matched(tmp_path, ref, hyp, missing="empty")
    result = matched(tmp_path, ref, hyp, missing="empty", extra="ignore")
    assert result.hyps == {"a": "one", "b": "", "c": ""}
    assert (result.missing, result.extra) == (2, 1)


def test_a_recording_that_a_ctm_lacks_is_missing_and_a_silent_segment_is_not(tmp_path: Path) -> None:
    stm = "f1 1 anna 0 5 a\nf1 1 anna 5 9 b\nf2 1 anna 0 5 c\n"
    with pytest.raises(ScoreError, match="anna-f2-1"):
        matched(tmp_path, ("a.stm", stm), ("a.ctm", "f1 1 1 1 a\n"))
    with pytest.raises(ScoreError, match="f3 channel 1"):
        matched(tmp_path, ("a.stm", stm), ("a.ctm", "f1 1 1 1 a\nf2 1 1 1 c\nf3 1 1 1 d\n"))


def test_speakers_from_a_file(tmp_path: Path) -> None:
    ref = read_transcripts(write(tmp_path / "ref", "a one\nb two\n"))
    assert match(ref, ref, utt2spk={"a": "anna", "b": "ben"}).speakers == {"a": "anna", "b": "ben"}
    with pytest.raises(ScoreError, match="ref:2: found 'b'"):
        match(ref, ref, utt2spk={"a": "anna"})
    with pytest.raises(ScoreError, match="u:2: found 'a again'"):
        read_utt2spk(write(tmp_path / "u", "a anna\na ben\n"))


def test_normalisation_is_off_unless_asked_for() -> None:
    text = "L’Altra  volta: «Sì», don't  DO-that!"
    assert normalise(text, lower=False, remove_punctuation=False) == "L’Altra volta: «Sì», don't DO-that!"
    assert normalise(text, lower=True, remove_punctuation=False) == "l’altra volta: «sì», don't do-that!"
    assert normalise(text, lower=True, remove_punctuation=True) == "l'altra volta sì don't do that"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.trn", "one two\n", r"a.trn:1: found 'one two', expected `words \(utterance-id\)`"),
        ("a.trn", "{ uh / um } yes (utt1)\n", "alternatives"),
        ("text", "a one\n\na two\n", r"text:3: found 'a again \(first on line 1\)'"),
        ("a.stm", "f 1 anna 0\n", "a.stm:1: .* expected `recording channel speaker start end"),
        ("a.stm", "f 1 anna 5 4 word\n", "0 <= start <= end"),
        ("a.stm", "f 1 anna 0 x word\n", "found 'x', expected an end time in seconds, a finite number"),
        ("a.ctm", "f 1 0 1\n", "a.ctm:1: .* expected `recording channel start duration word"),
        ("a.ctm", "f 1 * * <ALT_BEGIN>\n", "alternatives are not supported"),
        ("a.ctm", "f 1 0 -1 word\n", "duration of at least 0"),
        ("a.ctm", "f 1 nan 1 word\n", "a finite number"),
        ("a.jsonl", '{"id": "a", "text": "one"}\n{"id": "b"\n', "a.jsonl:2: .* expected a JSON object"),
        ("a.jsonl", "[1]\n", 'a cut or a supervision with an "id"'),
        ("a.jsonl", '{"id": "a", "text": 3}\n', "a text in every supervision or in none"),
        (
            "a.jsonl",
            '{"id": "a", "supervisions": [{"start": 0, "text": "one"}, {"start": 1}]}\n',
            "a.jsonl:1: found 'a', expected a text in every supervision or in none",
        ),
        ("a.jsonl", '{"id": "a", "supervisions": [{"text": "one"}]}\n', "supervisions with start"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        read_transcripts(write(tmp_path / name, text))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="none: No such file"):
        read_transcripts(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"a one\nb \xff\xfe\n")
    with pytest.raises(ScoreError, match="binary:.* not UTF-8"):
        read_transcripts(tmp_path / "binary")
    packed = gzip.compress(b"a one two three four\n" * 500)
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ScoreError, match="cut.gz:.* damaged gzip"):
        read_transcripts(tmp_path / "cut.gz")
    (tmp_path / "plain.gz").write_bytes(b"a one\n")
    with pytest.raises(ScoreError, match="plain.gz:1: .* damaged gzip"):
        read_transcripts(tmp_path / "plain.gz")
    with pytest.raises(ScoreError, match="expected at least one"):
        empty = read_transcripts(write(tmp_path / "empty", "\n"))
        match(empty, empty)

"""Validation of cuts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, MultiCut, SupervisionSegment
from lhotse.utils import fastcopy

from toolkit.data.manifests import mono_cut, open_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.data.validate import TASKS, Rules, SeenIds, check_cut, kind, ordered_map, validate, write_valid
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> MonoCut:
    return synthetic_cuts(num_cuts=1, folder=tmp_path_factory.mktemp("corpus"))[0]


def with_segments(cut: MonoCut, *times: tuple[float, float], **fields) -> MonoCut:
    base = {"text": "words", "speaker": "someone"} | fields
    segments = [
        SupervisionSegment(f"s{number}", cut.recording.id, start, end - start, **base)
        for number, (start, end) in enumerate(times)
    ]
    return fastcopy(cut, supervisions=segments)


def test_a_good_cut_serves_every_task(cut):
    for rules in TASKS.values():
        assert check_cut(cut, rules) is None
        assert check_cut(cut, rules, decode=True) is None


METADATA = {
    "missing": lambda cut: fastcopy(cut, recording=None),
    "wrong sampling rate": lambda cut: cut.resample(8000),
    "too short": lambda cut: cut.truncate(duration=0.05),
    "too long": lambda cut: fastcopy(cut, duration=5000.0),
    "out of range": lambda cut: fastcopy(cut, duration=cut.duration + 1),
    "no supervision": lambda cut: fastcopy(cut, supervisions=[]),
    "supervision out of range": lambda cut: with_segments(cut, (0.0, cut.duration + 0.5)),
    "supervision out of range: s0 from -0.50": lambda cut: with_segments(cut, (-0.5, 0.5)),
    "supervision out of range: s0 from 0.50 to 0.50": lambda cut: with_segments(cut, (0.5, 0.5)),
    "empty transcript: supervision s0": lambda cut: with_segments(cut, (0, 1), text=" "),
    "empty transcript": lambda cut: with_segments(cut, (0, 1), text=None),
    "overlapping supervisions: s0 and s1": lambda cut: with_segments(cut, (0, 0.6), (0.5, 1)),
}


@pytest.mark.parametrize("reason", METADATA)
def test_bad_metadata(cut, reason):
    found = check_cut(METADATA[reason](cut), TASKS["asr"])
    assert found is not None and found.startswith(reason)


def test_what_only_some_tasks_refuse(cut):
    silent_speaker = with_segments(cut, (0, 1), speaker=None)
    assert check_cut(silent_speaker, TASKS["speaker"]) == "no speaker: supervision s0"
    assert check_cut(silent_speaker, TASKS["asr"]) is None
    untranscribed = with_segments(cut, (0, 1), text=None)
    assert check_cut(untranscribed, TASKS["ssl"]) is None
    overlapping = with_segments(cut, (0, 0.6), (0.5, 1))
    assert check_cut(overlapping, TASKS["diarization"]) is None
    touching = with_segments(cut, (0, 0.505), (0.5, 1))
    assert check_cut(touching, TASKS["asr"]) is None  # times are often rounded


def test_multi_channel_cut(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((16_000, 2), 0.1), 16_000)
    cut = MultiCut("a", 0, 1, channel=[0, 1], recording=mono_cut("a", tmp_path / "a.wav", 16_000).recording)
    assert check_cut(cut, Rules()) == "multi-channel: 2 channels, expected 1"


def test_bad_files(tmp_path):
    samples = np.full(16_000, 0.1)
    variants = {
        "clipped": np.ones(16_000),
        "silent": np.zeros(16_000),
        "not finite": np.where(np.arange(16_000) == 5, np.nan, 0.1),
    }
    for reason, content in variants.items():
        soundfile.write(tmp_path / "a.wav", content, 16_000, subtype="FLOAT")
        cut = mono_cut("a", tmp_path / "a.wav", 16_000)
        assert check_cut(cut, Rules()) is None  # unseen without decoding
        assert kind(check_cut(cut, Rules(), decode=True)) == reason
    soundfile.write(tmp_path / "b.wav", samples, 8000)
    assert check_cut(mono_cut("b", tmp_path / "b.wav", 16_000), Rules(), decode=True).startswith(
        "wrong sampling rate: 8000"
    )
    soundfile.write(tmp_path / "c.wav", samples[:8000], 16_000)
    assert check_cut(mono_cut("c", tmp_path / "c.wav", 16_000), Rules(), decode=True).startswith(
        "truncated: 8000 samples"
    )
    (tmp_path / "d.wav").touch()
    for decode in (False, True):
        assert check_cut(mono_cut("d", tmp_path / "d.wav", 16_000), Rules(), decode).startswith("empty")
        assert check_cut(mono_cut("e", tmp_path / "e.wav", 16_000), Rules(), decode).startswith("missing")
    (tmp_path / "f.wav").write_text("words")
    assert check_cut(mono_cut("f", tmp_path / "f.wav", 16_000), Rules(), decode=True).startswith("not audio")


@pytest.mark.parametrize("num_threads", [1, 3])
def test_good_cuts_are_kept_and_bad_ones_listed(tmp_path, cut, num_threads):
    missing = mono_cut("gone", tmp_path / "gone.wav", 16_000)
    cuts = [cut, missing, cut, cut.with_id("second")]
    judged = validate(iter(cuts), TASKS["ssl"], decode=True, num_threads=num_threads)
    count, kinds = write_valid(judged, tmp_path / "good.jsonl.gz", tmp_path / "skipped.jsonl")
    assert count == 2 and kinds == {"missing": 1, "duplicate id": 1}
    assert [kept.id for kept in open_cuts(tmp_path / "good.jsonl.gz")] == [cut.id, "second"]
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "gone", "path": str(tmp_path / "gone.wav"), "reason": "missing: no such file"}
    assert rows[1]["id"] == cut.id and rows[1]["path"].endswith(f"{cut.id}.flac")


def test_cuts_in_memory_and_mixed_cuts_are_judged_too():
    first, second = synthetic_cuts(num_cuts=2)
    assert check_cut(first, Rules(), decode=True) is None
    mixed = first.mix(second, offset_other_by=0.5)
    assert check_cut(mixed, TASKS["diarization"], decode=True) is None
    assert check_cut(mixed, TASKS["asr"]).startswith("overlapping supervisions")
    assert CutSet.from_cuts([mixed])


def test_ordered_map_keeps_order_and_reads_little_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number * number, items(), num_threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 12
    assert list(results) == [number * number for number in range(3, 100)]


def test_errors_in_threads_come_through():
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // number, [1, 0, 2], num_threads=2))


def test_seen_ids():
    seen = SeenIds()
    assert [seen.add(name) for name in ("a", "b", "a", "ä", "ä")] == [True, True, False, True, False]
    seen.close()


def test_rules_are_checked():
    with pytest.raises(UserError, match="min_duration and max_duration: found 2 and 1"):
        replace(Rules(), min_duration=2, max_duration=1)

"""Recordings from manifests and from files, as streams of samples."""

import gzip

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from toolkit.data import recordings
from toolkit.data.audio import load_audio
from toolkit.data.codecs import BadAudio
from toolkit.data.manifests import write_cuts
from toolkit.data.recordings import cut_blocks, file_blocks, first_samples, from_files, named_recordings
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError


@pytest.fixture
def manifest(tmp_path):
    cuts = list(synthetic_cuts(3, folder=tmp_path))
    cuts[1] = cuts[1].truncate(offset=0.5, preserve_id=True)
    write_cuts(tmp_path / "cuts.jsonl.gz", cuts)
    return str(tmp_path / "cuts.jsonl.gz")


def test_cuts_by_their_own_name_and_by_that_of_their_recording(manifest):
    for by_recording, offset in ((False, 0.0), (True, 0.5)):
        found = list(named_recordings(manifest, [], 16000, by_recording))
        assert [r.id for r in found] == [f"synthetic-0-{n:04d}" for n in range(3)]
        assert [r.offset for r in found] == [0.0, offset, 0.0]
        assert all(r.path.endswith(f"{r.id}.flac") for r in found)


def test_two_cuts_of_a_recording_have_one_name(tmp_path):
    (cut,) = synthetic_cuts(1, folder=tmp_path)
    halves = cut.cut_into_windows(cut.duration / 2)
    write_cuts(tmp_path / "halves.jsonl", halves)
    assert len(list(named_recordings(str(tmp_path / "halves.jsonl"), [], 16000))) == len(halves)
    with pytest.raises(UserError, match=r"halves.jsonl: found 2 cuts of the recording 'synthetic-0-0000'"):
        list(named_recordings(str(tmp_path / "halves.jsonl"), [], 16000, by_recording=True))


def test_damage_at_the_end_of_a_manifest_is_said_before_the_first_recording(manifest, tmp_path):
    path = tmp_path / "damaged.jsonl"
    with gzip.open(manifest) as file:
        path.write_bytes(file.read() + b"{")
    with pytest.raises(UserError, match="damaged.jsonl:4"):
        next(named_recordings(str(path), [], 16000))


def test_blocks_of_a_cut_join_to_its_samples(monkeypatch):
    monkeypatch.setattr(recordings, "BLOCK_SECONDS", 0.3)
    (cut,) = synthetic_cuts(1)
    cut = cut.truncate(offset=0.1, duration=1.0)
    blocks = list(cut_blocks(cut, 16000))
    assert [len(b) for b in blocks] == [4800, 4800, 4800, 1600]
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(cut))


def test_cuts_are_resampled():
    (cut,) = synthetic_cuts(1)
    assert sum(map(len, cut_blocks(cut, 8000))) == pytest.approx(cut.num_samples / 2, abs=1)


def test_channels_of_a_file_are_averaged(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 2))
    soundfile.write(tmp_path / "two.wav", samples, 16000, subtype="FLOAT")
    found = np.concatenate(list(file_blocks(tmp_path / "two.wav", 16000)))
    np.testing.assert_allclose(found, samples.mean(1), atol=1e-6)


def test_files_are_named_after_themselves(tmp_path):
    paths = [tmp_path / "my talk.wav", tmp_path / "other.wav"]
    for path in paths:
        soundfile.write(path, np.zeros(100), 16000)
    assert [r.id for r in from_files(paths, 16000)] == ["my_talk", "other"]
    with pytest.raises(UserError, match="found a second file called other"):
        next(from_files([*paths, tmp_path / "more" / "other.flac"], 16000))


def test_samples_that_are_no_numbers(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(BadAudio, match="nan.wav: not finite"):
        list(file_blocks(tmp_path / "nan.wav", 16000))


def test_first_samples():
    blocks = [np.full(3, n, np.float32) for n in range(4)]
    assert first_samples(blocks, 5, 1, "x").tolist() == [0, 0, 0, 1, 1]
    assert len(first_samples(blocks, 50, 1, "x")) == 12
    with pytest.raises(BadAudio, match="x: too short: 3 samples, limit 0.1 s"):
        first_samples(blocks[:1], 5, 100, "x")


@pytest.mark.parametrize(("cuts", "files", "found"), [(None, [], "none"), ("a.jsonl", ["b.wav"], "both")])
def test_either_cuts_or_files(cuts, files, found):
    with pytest.raises(UserError, match=f"found {found} of --cuts and audio files"):
        named_recordings(cuts, files, 16000)


def test_an_empty_manifest(tmp_path):
    write_cuts(tmp_path / "cuts.jsonl", CutSet.from_cuts([]))
    with pytest.raises(UserError, match="cuts.jsonl: the manifest is empty"):
        next(named_recordings(str(tmp_path / "cuts.jsonl"), [], 16000))

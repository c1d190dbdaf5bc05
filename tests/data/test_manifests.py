"""Opening and writing manifests, splitting, Shar."""

import gzip
import json

import numpy as np
import pytest
from lhotse import CutSet, MonoCut

from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.shar import write_shar
from toolkit.data.split import Count, Split, draw, table, write_splits
from toolkit.data.synthetic import synthetic_cuts
from toolkit.data.validate import skipped_list
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, synthetic_cuts(num_cuts=12, num_speakers=3, seed=1, folder=folder)


def test_synthetic_corpus_is_deterministic_and_the_same_in_memory_and_on_disk(corpus):
    folder, on_disk = corpus
    in_memory = synthetic_cuts(num_cuts=12, num_speakers=3, seed=1)
    for first, second in zip(in_memory, open_cuts(folder / "cuts.jsonl.gz"), strict=True):
        assert first.id == second.id and first.custom["source"] == "synthetic"
        assert first.supervisions[0].text == second.supervisions[0].text
        assert np.array_equal(first.load_audio(), second.load_audio())
        labels = first.load_labels()
        assert labels.dtype == np.int16 and np.array_equal(labels, second.load_labels())
        assert len(labels) * 320 == first.num_samples
    assert {cut.supervisions[0].speaker for cut in on_disk} == {"speaker00", "speaker01", "speaker02"}
    other = synthetic_cuts(num_cuts=1, seed=2)[0]
    assert other.num_samples != in_memory[0].num_samples or not np.array_equal(
        other.load_audio(), in_memory[0].load_audio()
    )


def test_written_manifests_are_read_back_and_byte_identical(tmp_path, corpus):
    _, cuts = corpus
    for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl.gz"):
        assert write_cuts(tmp_path / name, cuts) == 12
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    for name in ("a.jsonl", "a.jsonl.gz"):
        opened = open_cuts(tmp_path / name)
        assert opened.is_lazy and len(opened) == 12
        assert list(opened) == list(opened) == list(CutSet.from_file(tmp_path / name))
    assert len(list(open_cuts(tmp_path / "a.jsonl").filter(_has_audio))) == 12


def _has_audio(cut: MonoCut) -> bool:
    return cut.duration > 0


def test_mono_cut_is_what_lhotse_makes_of_the_file(corpus):
    _, cuts = corpus
    cut = cuts[0]
    made = mono_cut(
        cut.id, cut.recording.sources[0].source, cut.num_samples, text="x", speaker="y", source="real"
    )
    assert made.recording == cut.recording
    assert isinstance(made, MonoCut) and made.custom == {"source": "real"}
    assert (made.supervisions[0].text, made.supervisions[0].speaker) == ("x", "y")


def bad_manifests(line: str) -> dict[str, tuple[str, bytes, str]]:
    """Name to file name, content and message."""
    recording = json.dumps(json.loads(line)["recording"])
    supervision = json.dumps(json.loads(line)["supervisions"][0])
    no_start = json.dumps({key: value for key, value in json.loads(line).items() if key != "start"})
    packed = gzip.compress((line + "\n").encode() * 50)
    return {
        "empty": ("a.jsonl", b"", "the manifest is empty"),
        "text": ("a.jsonl", b"hello\n", "a.jsonl:1: not JSON"),
        "binary": ("a.jsonl", bytes(range(256)), "a.jsonl:1: not JSON"),
        "list": ("a.jsonl", b"[1, 2]\n", "a.jsonl:1: found a list, expected a cut"),
        "recordings": ("a.jsonl", recording.encode(), "a.jsonl:1: found a recording, expected a cut"),
        "supervisions": ("a.jsonl", supervision.encode(), "a.jsonl:1: found a supervision, expected a cut"),
        "other type": ("a.jsonl", b'{"type": "House"}', "found an object with type 'House', expected a cut"),
        "second line": ("a.jsonl", f"{line}\n{line[:50]}\n".encode(), "a.jsonl:2: not JSON"),
        "missing key": ("a.jsonl", no_start.encode(), "a.jsonl:1: not a valid MonoCut"),
        "wrong value": (
            "a.jsonl",
            line.replace('"recording": {', '"recording": 7, "x": {').encode(),
            "not a valid MonoCut",
        ),
        "not gzip": ("a.jsonl.gz", line.encode(), "a.jsonl.gz:1: damaged gzip file"),
        "cut gzip": ("a.jsonl.gz", packed[: len(packed) // 2], "damaged gzip file|not JSON"),
        "suffix": ("a.yaml", line.encode(), "expected cuts as .jsonl or .jsonl.gz"),
    }


@pytest.mark.parametrize("kind", list(bad_manifests('{"recording": {}, "supervisions": [{}]}')))
def test_bad_manifests_are_refused_with_file_and_line(tmp_path, corpus, kind):
    line = (json.dumps(corpus[1][0].to_dict())).strip()
    name, content, message = bad_manifests(line)[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(open_cuts(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_manifest_and_folder_without_shards(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_cuts(tmp_path / "a.jsonl.gz")
    with pytest.raises(UserError, match="expected a Lhotse Shar directory"):
        open_cuts(tmp_path)


def test_shar_round_trip(tmp_path, corpus):
    folder, cuts = corpus
    bad = mono_cut("bad", folder / "no.flac", 16_000)
    with skipped_list(tmp_path / "skipped.jsonl") as skip:
        assert write_shar([*cuts, bad], tmp_path / "shar", 5, "flac", skip) == 12
    assert skip.kinds == {"missing": 1}
    assert len(list((tmp_path / "shar").glob("recording.*.tar"))) == 3
    for first, second in zip(cuts, open_cuts(tmp_path / "shar"), strict=True):
        assert first.id == second.id and first.supervisions == second.supervisions
        assert np.array_equal(first.load_audio(), second.load_audio())
        assert np.array_equal(first.load_labels(), second.load_labels())
    with pytest.raises(UserError, match="exists already"):
        write_shar(cuts, tmp_path / "shar", 5, "flac", skip)
    shuffled = [cut.id for cut in open_cuts(tmp_path / "shar", shard_seed=3)]
    assert sorted(shuffled) == sorted(cuts.ids)


def test_packing_nothing_is_an_error(tmp_path, corpus):
    with (
        skipped_list(tmp_path / "skipped.jsonl") as skip,
        pytest.raises(UserError, match="no cut can be packed"),
    ):
        write_shar([mono_cut("bad", "no.flac", 16_000)], tmp_path / "shar", 5, "flac", skip)
    assert not (tmp_path / "shar").exists()


@pytest.mark.parametrize("by", ["sentence", "speaker", "file"])
def test_splits_keep_equal_things_together(tmp_path, by):
    cuts = [
        mono_cut(f"c{i}", f"/x/{i}.flac", 16_000, text=f"sentence {i % 40}", speaker=f"s{i % 30}")
        for i in range(600)
    ]
    split = Split(valid=0.2, test=0.3, by=by, seed=3)
    counts = write_splits(cuts, tmp_path, split, together=True)
    read = {name: list(open_cuts(tmp_path / f"cuts_{name}.jsonl.gz")) for name in counts}
    assert {name: len(own) for name, own in read.items()} == {
        name: count.cuts for name, count in counts.items()
    }
    assert sum(map(len, read.values())) == len(open_cuts(tmp_path / "cuts.jsonl.gz")) == 600
    assert all(read.values())
    keys = {
        "sentence": lambda cut: cut.supervisions[0].text,
        "speaker": lambda cut: cut.supervisions[0].speaker,
    }
    if by in keys:
        groups = [{keys[by](cut) for cut in own} for own in read.values()]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    else:
        assert abs(len(read["test"]) - 180) < 40 and abs(len(read["valid"]) - 120) < 40
    assert "test" in table(counts)


def test_split_of_share_zero_removes_old_file(tmp_path):
    cuts = [mono_cut(f"c{i}", f"/x/{i}.flac", 16_000) for i in range(50)]
    write_splits(cuts, tmp_path, Split())
    write_splits(cuts, tmp_path, Split(test=0))
    assert not (tmp_path / "cuts_test.jsonl.gz").exists()
    assert write_splits([], tmp_path / "none", Split())["train"] == Count()
    assert not (tmp_path / "none").exists()


def test_split_mistakes():
    with pytest.raises(UserError, match="sum is below 1"):
        Split(valid=0.5, test=0.5)
    with pytest.raises(UserError, match="split by: found 'colour'"):
        Split(by="colour")
    with pytest.raises(UserError, match="found 0 speakers, expected one"):
        Split(by="speaker").place(mono_cut("a", "a.flac", 16_000))


def test_draw_is_uniform_and_fixed():
    numbers = np.array([draw(f"key {i}") for i in range(2000)])
    assert 0 <= numbers.min() and numbers.max() < 1
    assert np.abs(np.sort(numbers) - np.linspace(0, 1, 2000)).max() < 0.05
    assert draw("key") == draw("key") == int("2c70e12b7a06", 16) / 16**12

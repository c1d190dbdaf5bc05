"""Several codebooks, and labels of Shar folders: made, measured, trained on."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from toolkit.bin import kmeans as kmeans_command
from toolkit.bin import label as label_command
from toolkit.bin import quality as quality_command
from toolkit.bin import train as train_command
from toolkit.data.manifests import open_cuts
from toolkit.data.shar import SharCuts, shard_names, write_shar
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.ssl import shar_labels
from toolkit.ssl.extract import MfccFrames
from toolkit.ssl.kmeans import KMeans
from toolkit.ssl.labels import Labeller, load_labels
from toolkit.ssl.shar_labels import label_shar
from toolkit.train import distributed

SIZES = (12, 20)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with a corpus, the same as Shar, and two codebooks."""
    folder = tmp_path_factory.mktemp("streams")
    synthetic_cuts(10, folder=folder)
    write_shar(plain(folder / "cuts.jsonl.gz"), folder / "shar", 4, "flac", pytest.fail)
    codebooks = [str(folder / f"km{size}.safetensors") for size in SIZES]
    cuts = ["--cuts", str(folder / "cuts.jsonl.gz"), "--frame-shift", "0.04"]
    kmeans_command.main([*cuts, "--out", *codebooks, "--clusters", *map(str, SIZES)])
    return folder


def plain(path: Path) -> list:
    """The cuts without the labels that they were made with."""
    cuts = list(open_cuts(path))
    for cut in cuts:
        del cut.custom["labels"]
    return cuts


def label(desk: Path, cuts: str, out: Path, *options: str, sizes: tuple[int, ...] = SIZES) -> None:
    codebooks = [str(desk / f"km{size}.safetensors") for size in sizes]
    label_command.main(["--cuts", str(desk / cuts), "--kmeans", *codebooks, "--out", str(out), *options])


def labels_of(cuts) -> dict[str, np.ndarray]:
    return {cut.id: load_labels(cut) for cut in cuts}


def test_one_call_makes_several_codebooks(desk):
    found = [KMeans.load(desk / f"km{size}.safetensors") for size in SIZES]
    assert [len(codebook.centroids) for codebook in found] == list(SIZES)
    assert [codebook.meta["seed"] for codebook in found] == [0, 1]
    with pytest.raises(UserError, match="found 1 files and 2 sizes"):
        kmeans_command.main(["--cuts", str(desk / "cuts.jsonl.gz"), "--out", "x", "--clusters", "5", "6"])


def test_each_codebook_is_a_stream(tmp_path, desk):
    label(desk, "cuts.jsonl.gz", tmp_path / "both")
    for stream, size in enumerate(SIZES):
        label(desk, "cuts.jsonl.gz", tmp_path / str(size), sizes=(size,))
        alone = labels_of(open_cuts(tmp_path / str(size) / "cuts.jsonl.gz"))
        for cut in CutSet.from_file(tmp_path / "both/cuts.jsonl.gz"):
            rows = load_labels(cut)
            assert rows.dtype == np.int16 and rows.shape == (len(alone[cut.id]), 2)
            assert np.array_equal(rows[:, stream], alone[cut.id])
            half = cut.truncate(offset=0.4, duration=0.4)
            assert np.array_equal(load_labels(half), rows[10:20])
    recipe = json.loads((tmp_path / "both/recipe.json").read_text())
    assert [codebook["num_clusters"] for codebook in recipe["kmeans"]] == list(SIZES)


def test_features_are_computed_once_for_all_their_codebooks():
    class Counted(MfccFrames):
        calls = 0

        def __call__(self, utterances):
            self.calls += 1
            return super().__call__(utterances)

    features = Counted(0.02)
    codebook = KMeans(torch.randn(5, 39), {"features": {"frame_shift": 0.02}})
    rows = Labeller([(features, codebook), (features, codebook)])([0.1 * torch.randn(16000)])
    assert features.calls == 1
    assert rows[0].shape == (50, 2) and torch.equal(rows[0][:, 0], rows[0][:, 1])


def test_codebooks_must_fit_together():
    slow, fast = (KMeans(torch.zeros(2, 39), {"features": {"frame_shift": s}}) for s in (0.04, 0.02))
    with pytest.raises(UserError, match=r"frame shifts of \[0.02, 0.04\] s, expected one"):
        Labeller([(MfccFrames(0.04), slow), (MfccFrames(0.02), fast)])
    with pytest.raises(UserError, match=r"found \[50, 25\] labels for one utterance"):
        Labeller([(MfccFrames(0.02), fast), (MfccFrames(0.04), fast)])([torch.randn(16000)])


def test_quality_has_a_column_a_stream(tmp_path, desk, capsys):
    label(desk, "cuts.jsonl.gz", tmp_path / "labels")
    capsys.readouterr()
    report = tmp_path / "quality.json"
    quality_command.main(["--labels", str(tmp_path / "labels/cuts.jsonl.gz"), "--json", str(report)])
    streams = json.loads(report.read_text())["streams"]
    assert [stream["num_clusters"] for stream in streams] == list(SIZES)
    for stream in streams:
        assert stream["used_clusters"] + stream["unused_clusters"] == stream["num_clusters"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("perplexity"))
    assert line.split()[1:] == [f"{stream['perplexity']:.4f}" for stream in streams]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_shar_folder_gets_the_labels_of_its_manifest(tmp_path, desk, jobs):
    label(desk, "cuts.jsonl.gz", tmp_path / "manifest")
    label(desk, "shar", tmp_path / "packed", "--jobs", jobs)
    expected = labels_of(open_cuts(tmp_path / "manifest/cuts.jsonl.gz"))
    packed = tmp_path / "packed/shar"
    found = labels_of(SharCuts(packed, None))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert shard_names(packed) == ["000000", "000001", "000002"]
    audio = packed / "recording.000001.tar"
    assert audio.is_symlink() and audio.resolve() == desk / "shar/recording.000001.tar"
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        ".lock",
        "recipe.json",
        "shar",
        "skipped.jsonl",
    ]
    first = next(iter(SharCuts(packed, None)))
    assert np.array_equal(load_labels(first.truncate(offset=0.4, duration=0.4)), expected[first.id][10:20])


def test_labels_of_a_shar_folder_can_be_made_anew(tmp_path, desk):
    label(desk, "shar", tmp_path / "first", sizes=SIZES[:1])
    label(desk, "cuts.jsonl.gz", tmp_path / "manifest", sizes=SIZES[1:])
    second = [str(tmp_path / "first/shar"), "--kmeans", str(desk / f"km{SIZES[1]}.safetensors")]
    label_command.main(["--cuts", *second, "--out", str(tmp_path / "second")])
    expected = labels_of(open_cuts(tmp_path / "manifest/cuts.jsonl.gz"))
    found = labels_of(SharCuts(tmp_path / "second/shar", None))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_an_interrupted_shar_folder_goes_on(tmp_path, desk, monkeypatch):
    codebook = KMeans.load(desk / "km12.safetensors")
    read = []
    real = shar_labels.read_shard
    monkeypatch.setattr(shar_labels, "read_shard", lambda *place: read.append(place[1]) or real(*place))

    def sizes(folder):
        make = lambda number: Labeller([(MfccFrames(0.04), codebook)])  # noqa: E731
        return label_shar(desk / "shar", folder, {"name": "test"}, make)

    assert list(sizes(tmp_path / "whole")) == [4, 4, 2]
    broken = sizes(tmp_path / "broken")
    assert [next(broken), next(broken)] == [4, 4]
    broken.close()
    assert not (tmp_path / "broken/shar/cuts.000000.jsonl.gz").exists()
    for left_by_a_crash in ("shar/.labels.000002.tar.x.tmp", "shards/.000002.json.x.tmp"):
        (tmp_path / "broken" / left_by_a_crash).write_bytes(b"half a file")
    read.clear()
    assert list(sizes(tmp_path / "broken")) == [4, 4, 2]
    assert read == ["000002"]
    for path in (tmp_path / "whole/shar").iterdir():
        assert path.read_bytes() == (tmp_path / "broken/shar" / path.name).read_bytes()
    assert len(list((tmp_path / "broken/shar").iterdir())) == 9
    assert not (tmp_path / "broken/shards").exists()
    (tmp_path / "broken/shards").mkdir()
    (tmp_path / "broken/shards/000002.skipped.jsonl").touch()
    assert list(sizes(tmp_path / "broken")) == []
    assert not (tmp_path / "broken/shards").exists()


@pytest.mark.parametrize("cuts", ["shar", "cuts.jsonl.gz"])
def test_a_second_command_in_the_same_folder_is_refused(tmp_path, desk, monkeypatch, cuts):
    monkeypatch.setattr(distributed, "sole_owner", partial(distributed.sole_owner, patience=0))
    with distributed.sole_owner(tmp_path):
        with pytest.raises(
            UserError, match=f"{tmp_path}: another process works here; expected one run a folder"
        ):
            label(desk, cuts, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    label(desk, cuts, tmp_path)
    assert (tmp_path / "skipped.jsonl").exists()


def test_unusable_cuts_of_a_shar_folder_keep_their_place(tmp_path, desk):
    cuts = plain(desk / "cuts.jsonl.gz")[:3]
    cuts[1] = cuts[1].truncate(duration=0.004, preserve_id=True)
    write_shar(cuts, tmp_path / "shar", 4, "flac", pytest.fail)
    label(desk, str(tmp_path / "shar"), tmp_path / "labels")
    rows = labels_of(SharCuts(tmp_path / "labels/shar", None))
    assert [bool((row >= 0).any()) for row in rows.values()] == [True, False, True]
    skipped = [json.loads(line) for line in (tmp_path / "labels/skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in skipped] == [cuts[1].id]
    assert json.loads((tmp_path / "labels/recipe.json").read_text())["summary"]["num_cuts"] == 2


@pytest.mark.usefixtures("process_settings")
def test_training_reads_a_labelled_shar_folder(tmp_path, desk, root):
    label(desk, "shar", tmp_path / "labels", sizes=SIZES[:1])
    train_command.main(
        [
            *("--config", str(root / "egs/mini/conf/debug.yaml"), "--exp", str(tmp_path / "exp")),
            *(f"--data.train={tmp_path / 'labels/shar'}", "--data.valid=null", "--objective.num_classes=12"),
            *("--speech.encoder.subsampling=4", "--train.max_updates=3", "--train.log_every=1"),
        ]
    )
    rows = [json.loads(line) for line in (tmp_path / "exp/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["loss"] < 20 for row in rows)
    assert not (tmp_path / "exp/skipped.jsonl").read_text()

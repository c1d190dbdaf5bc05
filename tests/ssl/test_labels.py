"""Frame features and labels: what they are, that they survive interruptions, and the three commands."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from lhotse.features.io import close_cached_file_handles

import toolkit
from tests.data.orphans import is_running, wait_for_end
from toolkit import config
from toolkit.bin import kmeans as kmeans_command
from toolkit.bin import label as label_command
from toolkit.bin import quality as quality_command
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.nn.features import Mfcc
from toolkit.ssl.extract import MfccFrames, ModelFrames, average, build, draw, extract, mfcc_recipe, multiple
from toolkit.ssl.kmeans import KMeans, fit
from toolkit.ssl.labels import Labeller, label_cuts, load_labels, read_summary
from toolkit.tasks.load import save_model
from toolkit.tasks.ssl import SslConfig, SslTask

FRAME_SHIFT = 0.04


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    synthetic_cuts(10, folder=folder)
    return folder / "cuts.jsonl.gz"


@pytest.fixture(scope="module")
def codebook(corpus) -> KMeans:
    rows = draw(open_cuts(corpus), MfccFrames(FRAME_SHIFT), 1.0, 0, [])
    found = fit(np.concatenate(list(rows)), 16)
    found.meta["features"] = mfcc_recipe(FRAME_SHIFT)
    return found


def labeller(codebook: KMeans, number: int) -> Labeller:
    return Labeller([(MfccFrames(FRAME_SHIFT), codebook)])


def save_tiny_model(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SslConfig()
    config.speech.encoder.dim, config.speech.encoder.num_layers, config.speech.encoder.num_heads = 32, 2, 2
    save_model(folder, SslTask(config, folder, 0).build_model(), config)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def label(corpus: Path, folder: Path, codebook: KMeans, **options) -> list[int]:
    make = functools.partial(labeller, codebook)
    return list(label_cuts(open_cuts(corpus), folder, {"name": "test"}, make, **options))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".gz"
    }


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_average_is_over_windows_centred_on_every_kth_frame(step, size):
    features = torch.randn(size, 3)
    reach = step // 2
    windows = [features[max(0, i - reach) : i + reach + 1].mean(0) for i in range(0, size, step)]
    torch.testing.assert_close(average(features, step), torch.stack(windows))


def test_mfcc_frames_match_single_utterances_and_their_count():
    utterances = [0.1 * torch.randn(size) for size in (16000, 8123, 100)]
    frames = MfccFrames(FRAME_SHIFT)
    for samples, found in zip(utterances, frames(utterances), strict=True):
        mfcc, _ = Mfcc()(samples[None], torch.tensor([len(samples)]))
        torch.testing.assert_close(found, average(mfcc[0], 4))
        assert found.shape == (frames.num_frames(len(samples)), 39)
    assert frames.num_frames(79) == 0


@pytest.mark.parametrize("margin", [1, 4])
def test_a_margin_is_left_out_at_both_ends(margin):
    for samples in (16000, 8123, 900):
        audio = 0.1 * torch.randn(samples)
        mfcc = Mfcc()(audio[None], torch.tensor([samples]))[0][0]
        frames = MfccFrames(0.02, margin=margin)
        inner = mfcc[margin : len(mfcc) - margin]
        assert frames.num_frames(samples) == -(-len(inner) // 2)
        if len(inner):
            torch.testing.assert_close(frames([audio])[0], average(inner, 2))
    with pytest.raises(UserError, match="margin: found -1"):
        MfccFrames(0.02, margin=-1)


@pytest.mark.parametrize(
    ("margin", "frontend", "encoder"),
    [(1, {"name": "waveform"}, {"embed": "linear"}), (4, {"name": "fbank"}, {"embed": "conv2d"})],
)
def test_with_the_margin_of_an_encoder_labels_are_as_many_as_its_frames(margin, frontend, encoder):
    zipformer = {"name": "zipformer", "output_downsampling": 1, **encoder}
    with torch.device("meta"):
        speech = SpeechEncoder(
            config.build(SpeechConfig, {"frontend": frontend, "encoder": zipformer}, "test")
        )
    frames = MfccFrames(0.02, margin=margin)
    for samples in range(1600, 32000, 777):
        assert abs(frames.num_frames(samples) - speech.output_lengths(samples)) <= 1


def test_cmvn_is_over_the_utterance():
    utterances = [0.1 * torch.randn(size) for size in (16000, 8123)]
    for samples, found in zip(utterances, MfccFrames(0.01, cmvn=True)(utterances), strict=True):
        assert found.mean(0).abs().max() < 1e-4
        assert (found.std(0, correction=0) - 1).abs().max() < 1e-4
        quieter = MfccFrames(0.01, cmvn=True)([0.5 * samples])[0]
        torch.testing.assert_close(quieter, found, atol=1e-2, rtol=1e-2)
    assert MfccFrames(0.01, cmvn=True)([torch.zeros(160)])[0].abs().max() == 0


def test_label_frames_are_as_many_as_the_encoders(model_folder):
    model = ModelFrames(toolkit.load(model_folder), 1, FRAME_SHIFT)
    mfcc = MfccFrames(FRAME_SHIFT)
    for samples in range(80, 16000, 531):
        assert abs(model.num_frames(samples) - mfcc.num_frames(samples)) <= 1


def test_model_frames_are_the_layer_whatever_the_batch(model_folder):
    model = toolkit.load(model_folder)
    utterances = [0.1 * torch.randn(size) for size in (16000, 9000)]
    for layer in (0, 2):
        found = ModelFrames(model, layer, FRAME_SHIFT)(utterances)
        for samples, rows in zip(utterances, found, strict=True):
            alone = model.features(samples[None], torch.tensor([len(samples)])).layers[layer][0]
            torch.testing.assert_close(rows, alone, atol=1e-4, rtol=1e-4)
    halved = ModelFrames(model, 2, 0.08)(utterances)[0]
    torch.testing.assert_close(halved, average(found[0], 2), atol=1e-4, rtol=1e-4)


def test_wrong_layers_and_frame_shifts_are_named(model_folder):
    with pytest.raises(UserError, match="layer: found 3, expected 0 .* to 2"):
        ModelFrames(toolkit.load(model_folder), 3, FRAME_SHIFT)
    with pytest.raises(UserError, match="frame-shift: found 0.02 s, expected a multiple of 0.04 s"):
        ModelFrames(toolkit.load(model_folder), 1, 0.02)
    for shift in (0.0, -0.02, 0.025, float("nan"), float("inf")):
        with pytest.raises(UserError, match="multiple of 0.01 s"):
            multiple(shift, 0.01)


def test_unusable_cuts_are_listed(tmp_path, corpus):
    good = next(iter(open_cuts(corpus)))
    soundfile.write(tmp_path / "short.wav", np.zeros(50), 16000)
    soundfile.write(tmp_path / "slow.wav", np.zeros(8000), 8000)
    (tmp_path / "text.wav").write_text("no audio")
    cuts = [
        mono_cut("short", tmp_path / "short.wav", 50),
        mono_cut("slow", tmp_path / "slow.wav", 8000, 8000),
        mono_cut("text", tmp_path / "text.wav", 8000),
        mono_cut("missing", tmp_path / "missing.wav", 8000),
        good,
    ]
    skipped = []
    found = dict(extract(cuts, MfccFrames(FRAME_SHIFT), skipped))
    assert list(found) == [4]
    reasons = {row["id"]: row["reason"] for row in skipped}
    assert "too short: 50 samples" in reasons["short"]
    assert "wrong sampling rate: found 8000 Hz" in reasons["slow"]
    assert set(reasons) == {"short", "slow", "text", "missing"}
    assert all(set(row) == {"id", "path", "reason"} for row in skipped)


def test_batches_do_not_change_features(corpus):
    cuts = list(open_cuts(corpus))
    single = dict(extract(cuts, MfccFrames(FRAME_SHIFT), [], batch_seconds=0.1))
    whole = dict(extract(cuts, MfccFrames(FRAME_SHIFT), [], batch_seconds=1000))
    assert sorted(single) == sorted(whole) == list(range(10))
    assert all(torch.equal(single[i], whole[i]) for i in single)


def test_draw_takes_a_share_by_seed_and_id(corpus):
    cuts = list(open_cuts(corpus))
    sizes = [
        [len(rows) for rows in draw(cuts, MfccFrames(FRAME_SHIFT), 0.5, seed, [])] for seed in (0, 0, 1, 2)
    ]
    assert sizes[0] == sizes[1]
    assert 0 < len(sizes[0]) < 10
    assert sizes[0] != sizes[2] or sizes[0] != sizes[3]


def test_labels_are_the_nearest_clusters(tmp_path, corpus, codebook):
    assert label(corpus, tmp_path / "labels", codebook, shard_size=4) == [4, 4, 2]
    frames = MfccFrames(FRAME_SHIFT)
    cuts = list(CutSet.from_file(tmp_path / "labels/cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == [cut.id for cut in open_cuts(corpus)]
    for cut in cuts:
        labels = cut.load_labels()
        assert labels.dtype == np.int16
        assert cut.labels.frame_shift == FRAME_SHIFT
        expected = codebook.predict(frames([torch.from_numpy(cut.load_audio()[0])])[0])
        assert np.array_equal(labels, expected[: len(labels)])
        assert abs(len(labels) - len(expected)) <= 1
        assert cut.labels.shape == [len(expected)]
    total = read_summary(tmp_path / "labels")
    assert (total.num_cuts, total.num_skipped) == (10, 0)
    assert total.audio_seconds == pytest.approx(sum(cut.duration for cut in cuts))


def test_parts_of_recordings_and_odd_ids(tmp_path, corpus, codebook):
    first = next(iter(open_cuts(corpus)))
    names = ["a", "a/b", "a b", "ä"]
    parts = [
        first.truncate(offset=0.2 * i, duration=1.0, preserve_id=True).with_id(name)
        for i, name in enumerate(names)
    ]
    write_cuts(tmp_path / "parts.jsonl", parts)
    label(tmp_path / "parts.jsonl", tmp_path / "labels", codebook)
    cuts = CutSet.from_file(tmp_path / "labels/cuts.jsonl.gz").to_eager()
    assert [cut.id for cut in cuts] == names
    for part, cut in zip(parts, cuts, strict=True):
        (features,) = MfccFrames(FRAME_SHIFT)([torch.from_numpy(part.load_audio()[0])])
        assert np.array_equal(cut.load_labels(), codebook.predict(features)[:25])
        half = cut.truncate(offset=0.4, duration=0.4)
        assert np.array_equal(half.load_labels(), cut.load_labels()[10:20])


def test_an_interrupted_run_goes_on(tmp_path, corpus, codebook, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    label(corpus, whole, codebook, shard_size=3)
    make = functools.partial(labeller, codebook)
    shards = label_cuts(open_cuts(corpus), broken, {"name": "test"}, make, shard_size=3)
    assert [next(shards), next(shards)] == [3, 3]
    shards.close()
    assert not (broken / "cuts.jsonl.gz").exists()
    with pytest.raises(UserError, match="found no summary"):
        read_summary(broken)
    # A shard whose labels were written but not its cuts counts as not done.
    (broken / "shards/00001.cuts.jsonl.gz").unlink()
    (broken / "shards/.00002.h5.x.tmp").write_bytes(b"half a file")
    read = []
    monkeypatch.setattr(
        "toolkit.ssl.extract.load_audio", lambda cut: read.append(cut.id) or cut.load_audio()[0]
    )
    assert label(corpus, broken, codebook, shard_size=3) == [3, 3, 3, 1]
    assert len(read) == 7
    assert content(broken) == content(whole)
    for left_by_a_crash in ("00000.cuts.jsonl.gz", "00001.skipped.jsonl", ".00002.h5.x.tmp"):
        (broken / "shards" / left_by_a_crash).touch()
    assert label(corpus, broken, codebook, shard_size=3) == []
    assert len(read) == 7 and content(broken) == content(whole)
    assert sorted(path.suffix for path in (broken / "shards").iterdir()) == [".h5"] * 4


def test_a_full_disk_leaves_no_half_file(tmp_path, corpus, codebook, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "test", "shard_size": 500}))
    with pytest.raises(OSError, match="No space left"):
        label(corpus, tmp_path, codebook)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["recipe.json"]


def test_several_processes_give_the_same(tmp_path, corpus, codebook):
    codebook.save(tmp_path / "km.safetensors")
    make = functools.partial(
        label_command.build_labeller, [str(tmp_path / "km.safetensors")], None, "cpu", 60.0
    )
    for jobs in (1, 2):
        sizes = label_cuts(open_cuts(corpus), tmp_path / str(jobs), {}, make, jobs, shard_size=2)
        assert list(sizes) == [2] * 5
    assert content(tmp_path / "1") == content(tmp_path / "2")


def open_files() -> int:
    return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


def test_few_files_of_labels_are_open_at_a_time(tmp_path, corpus, codebook, monkeypatch):
    label(corpus, tmp_path, codebook, shard_size=1)
    monkeypatch.setattr("toolkit.ssl.labels.MOST_OPEN_FILES", 3)
    close_cached_file_handles()
    most = 0
    for cut in CutSet.from_file(tmp_path / "cuts.jsonl.gz"):
        assert np.array_equal(load_labels(cut), cut.load_labels())
        most = max(most, open_files())
    assert most == 3
    close_cached_file_handles()


def drop_the_labels(path: Path) -> None:
    with h5py.File(path, "w"):
        pass


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "No such file or directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged .*truncated file"),
        (lambda path: path.write_bytes(b""), "damaged .*file signature not found"),
        (drop_the_labels, "damaged .*doesn't exist"),
    ],
    ids=["missing", "cut short", "empty", "without the labels"],
)
def test_labels_that_cannot_be_read(tmp_path, corpus, codebook, spoil, reason):
    label(corpus, tmp_path, codebook)
    spoil(tmp_path / "shards/00000.h5")
    cut = next(iter(CutSet.from_file(tmp_path / "cuts.jsonl.gz")))
    message = rf"shards/00000.h5: {reason}.*, expected the labels of cut synthetic-0-0000$"
    with pytest.raises(UserError, match=message):
        load_labels(cut)


ORPHAN = """
import multiprocessing, time
from toolkit.ssl.workers import run_shards

def build(number):
    print(multiprocessing.process.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    list(run_shards([None], build, jobs=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_die_with_the_one_they_work_for(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = subprocess.Popen([sys.executable, tmp_path / "orphan.py"], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert is_running(child)
    parent.kill()
    parent.wait()
    wait_for_end([child])


def test_a_folder_of_other_labels_is_refused(tmp_path, corpus, codebook):
    label(corpus, tmp_path, codebook)
    with pytest.raises(UserError, match="recipe.json: labels of another shard_size"):
        label(corpus, tmp_path, codebook, shard_size=3)
    make = functools.partial(labeller, codebook)
    with pytest.raises(UserError, match="labels of another name"):
        list(label_cuts(open_cuts(corpus), tmp_path, {"name": "other"}, make))


def test_nothing_usable_is_an_error(tmp_path, codebook):
    write_cuts(tmp_path / "cuts.jsonl", [mono_cut("gone", tmp_path / "gone.wav", 8000)])
    with pytest.raises(UserError, match="none of 1 cuts could be used"):
        label(tmp_path / "cuts.jsonl", tmp_path / "labels", codebook)
    mixed = next(iter(synthetic_cuts(1))).pad(duration=9).drop_in_memory_data()
    write_cuts(tmp_path / "mixed.jsonl", [mixed])
    with pytest.raises(UserError, match="is a MixedCut, expected MonoCut"):
        label(tmp_path / "mixed.jsonl", tmp_path / "other", codebook)


def test_commands_with_mfcc(tmp_path, corpus, capsys):
    km, out = str(tmp_path / "km.safetensors"), str(tmp_path / "labels")
    bad = mono_cut("gone", tmp_path / "gone.wav", 8000)
    write_cuts(tmp_path / "cuts.jsonl.gz", [*open_cuts(corpus), bad])
    cuts = str(tmp_path / "cuts.jsonl.gz")
    kmeans_command.main(["--cuts", cuts, "--out", km, "--clusters", "12", "--frame-shift", "0.02"])
    label_command.main(["--cuts", cuts, "--kmeans", km, "--out", out])
    assert [row["id"] for row in map(json.loads, open(f"{out}/skipped.jsonl", encoding="utf-8"))] == ["gone"]
    assert KMeans.load(km).meta["features"] == {
        "kind": "mfcc",
        "frame_shift": 0.02,
        "cmvn": False,
        "margin": 0,
    }
    recipe = json.loads(Path(out, "recipe.json").read_text(encoding="utf-8"))
    assert [codebook["num_clusters"] for codebook in recipe["kmeans"]] == [12]
    assert recipe["summary"]["num_cuts"] == 10

    letters = tmp_path / "letters.ctm"
    with open(letters, "w", encoding="utf-8") as file:
        for cut in open_cuts(corpus):
            for i, letter in enumerate(cut.load_labels()):
                file.write(f"{cut.id} 1 {0.02 * i:.2f} 0.02 {letter}\n")
    capsys.readouterr()
    numbers = str(tmp_path / "quality.json")
    quality_command.main(
        [
            "--labels",
            f"{out}/cuts.jsonl.gz",
            "--alignment",
            str(letters),
            "--clusters",
            "12",
            "--json",
            numbers,
        ]
    )
    printed = capsys.readouterr().out
    found = json.loads(Path(numbers).read_text(encoding="utf-8"))
    assert found["num_clusters"] == 12
    # The corpus is made of steady letters, so that clusters of MFCC tell much about them.
    assert found["pnmi"] > 0.3
    assert f"{found['pnmi']:.4f}" in printed


def test_commands_with_a_layer_of_a_model(tmp_path, corpus, model_folder):
    km, out = str(tmp_path / "km.safetensors"), str(tmp_path / "labels")
    layer = ["--model", str(model_folder), "--layer", "1"]
    kmeans_command.main(["--cuts", str(corpus), "--out", km, "--clusters", "8", *layer])
    recipe = KMeans.load(km).meta["features"]
    assert (recipe["layer"], recipe["frame_shift"]) == (1, pytest.approx(0.04))
    assert recipe["taken"] == "after the residual connection"
    label_command.main(["--cuts", str(corpus), "--kmeans", km, "--out", out])
    cut = next(iter(CutSet.from_file(f"{out}/cuts.jsonl.gz")))
    features = build(recipe, toolkit.load)([torch.from_numpy(cut.load_audio()[0])])[0]
    assert (KMeans.load(km).predict(features) == cut.load_labels()).mean() > 0.98

    with pytest.raises(UserError, match="no such file"):
        label_command.main(
            [
                "--cuts",
                str(corpus),
                "--kmeans",
                km,
                "--out",
                str(tmp_path / "x"),
                "--model",
                str(tmp_path / "gone"),
            ]
        )
    moved = save_tiny_model(tmp_path / "moved")
    (moved / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(UserError, match="another model than the one that was clustered"):
        label_command.main(
            ["--cuts", str(corpus), "--kmeans", km, "--out", str(tmp_path / "y"), "--model", str(moved)]
        )


def test_commands_name_what_is_wrong(tmp_path, corpus, capsys):
    km = str(tmp_path / "km.safetensors")
    with pytest.raises(UserError, match="one of --model and --layer"):
        kmeans_command.main(["--cuts", str(corpus), "--out", km, "--clusters", "8", "--layer", "1"])
    with pytest.raises(UserError, match="--cmvn and --model"):
        kmeans_command.main(
            ["--cuts", str(corpus), "--out", km, "--clusters", "8", "--layer", "1", "--model", "x", "--cmvn"]
        )
    with pytest.raises(UserError, match="--max-frames: found 0, expected at least 1"):
        kmeans_command.main(["--cuts", str(corpus), "--out", km, "--clusters", "8", "--max-frames", "0"])
    with pytest.raises(UserError, match="clusters: found 100000"):
        kmeans_command.main(["--cuts", str(corpus), "--out", km, "--clusters", "100000"])
    with pytest.raises(UserError, match="no such file"):
        label_command.main(["--cuts", str(corpus), "--kmeans", km, "--out", str(tmp_path / "x")])
    for meta, expected in [
        ({}, "names no features"),
        ({"features": {"kind": "fbank"}}, "features.kind: found 'fbank', expected one of mfcc, model"),
        ({"features": {"kind": "mfcc", "frame_shift": 0.02}}, "features.cmvn: missing, expected"),
    ]:
        KMeans(torch.zeros(2, 39), meta).save(km)
        with pytest.raises(UserError, match=f"km.safetensors: {expected}"):
            label_command.main(["--cuts", str(corpus), "--kmeans", km, "--out", str(tmp_path / "x")])
    kmeans_command.main(["--cuts", str(corpus), "--out", km, "--clusters", "8"])
    command = ["--cuts", str(corpus), "--kmeans", km, "--out"]
    for wrong in (["--jobs", "0"], ["--shard-size", "-1"]):
        with pytest.raises(UserError, match="expected 1 or more"):
            label_command.main([*command, str(tmp_path / "x"), *wrong])
    for wrong in ("0", "-1", "nan", "two"):
        with pytest.raises(SystemExit):
            label_command.main([*command, str(tmp_path / "x"), "--batch-seconds", wrong])
        expected = f"argument --batch-seconds: found {wrong}, expected a number above 0"
        assert expected in capsys.readouterr().err
    label_command.main([*command, str(tmp_path / "x")])
    (tmp_path / "foreign" / "sub").mkdir(parents=True)
    with pytest.raises(UserError, match="foreign: found sub, expected a new folder to write"):
        label_command.main([*command, str(tmp_path / "foreign")])
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["sub"]
    (tmp_path / "foreign" / "recipe.json").write_text("[]")
    with pytest.raises(UserError, match="recipe.json: found list, expected what made the labels"):
        label_command.main([*command, str(tmp_path / "foreign")])
    write_cuts(tmp_path / "plain.jsonl", [mono_cut("plain", tmp_path / "plain.wav", 8000)])
    with pytest.raises(UserError, match="cut plain has no labels"):
        quality_command.main(["--labels", str(tmp_path / "plain.jsonl")])

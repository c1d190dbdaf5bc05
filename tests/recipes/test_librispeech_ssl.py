"""egs/librispeech/ssl: every stage on a generated corpus, with the recipe's own flags and tiny models."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.recipes.corpora import librispeech
from toolkit.data.manifests import open_cuts
from toolkit.data.shar import SharCuts
from toolkit.ssl.labels import load_labels

TINY_FRONTEND = ["--speech.frontend.dims=[16,16,16,16,16,16,16]"]
TINY_ZIPFORMER = [
    "--speech.encoder.downsampling=[1,2]",
    "--speech.encoder.num_layers=[1]",
    "--speech.encoder.dims=[32]",
    "--speech.encoder.unmasked_dims=[16]",
    "--speech.encoder.feed_forward_dims=[48]",
    "--speech.encoder.num_heads=[2]",
    "--speech.encoder.kernel_sizes=[7]",
    "--speech.encoder.query_head_dims=[8]",
    "--speech.encoder.pos_dim=16",
]
TINY_TRANSFORMER = [
    "--speech.encoder.dim=32",
    "--speech.encoder.num_layers=2",
    "--speech.encoder.num_heads=2",
    "--speech.encoder.feed_forward_dim=64",
    "--speech.encoder.position_groups=2",
]
TINY_TRAINING = [
    "--data.sampler.max_duration=12",
    "--data.sampler.num_workers=0",
    "--train.precision=fp32",
    "--train.valid_every=0",
    "--train.log_every=1",
    "--train.checkpoint_every=2",
    "--train.scan_batches=0",
]
STAGES = [
    "download",
    "prepare",
    "shar",
    "kmeans",
    "label",
    "pretrain",
    "relabel",
    "pretrain2",
    "average",
    "probe",
]


def run(root: Path, recipe: str, folder: Path, *arguments: str, **settings: str) -> str:
    """Runs a recipe as a user would; what it printed."""
    folders = {"TOOLKIT_EXP": str(folder / "exp"), "TOOLKIT_DATA": str(folder / "data")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(
        [root / "egs" / recipe / "run.sh", *arguments],
        env={**environment, **folders, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def tiny(*settings: str) -> dict[str, str]:
    """What makes a recipe small."""
    return {
        "overrides": " ".join([*settings, *TINY_TRAINING]),
        **{"clusters_1": "12", "clusters_2": "16", "updates_1": "4", "updates_2": "4"},
        **{"batches": "2", "layer": "1", "average": "2"},
    }


def check_experiment(exp: Path) -> None:
    """What both rounds must have left."""
    for number, clusters in ((1, 12), (2, 16)):
        rows = [
            json.loads(line) for line in (exp / f"pretrain-{number}/metrics.jsonl").read_text().splitlines()
        ]
        losses = [row["loss"] for row in rows if row["split"] == "train"]
        assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
        assert not (exp / f"pretrain-{number}/skipped.jsonl").read_text()
        quality = json.loads((exp / f"labels-{number}/quality.json").read_text())
        assert quality["num_clusters"] == clusters and quality["used_clusters"] > clusters // 2
    assert (exp / "model/model.safetensors").stat().st_size > 10_000
    times = [json.loads(line)["stage"] for line in (exp / "times.jsonl").read_text().splitlines()]
    assert times == STAGES


def test_help_names_stages_and_settings(root):
    text = run(root, "librispeech/ssl", root, "--help")
    assert all(f" {stage} " in text for stage in STAGES)
    assert "num_gpus" in text and "zipformer_base_fbank" in text


def test_a_corpus_that_is_not_there_is_named(root, tmp_path):
    gone = tmp_path / "LibriSpeech"
    with pytest.raises(AssertionError, match="LibriSpeech/train-clean-100: no such folder, expected a part"):
        run(root, "librispeech/ssl", tmp_path, corpus=str(gone))


def launch(root: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess:
    """Runs tools/launch.sh with commands that say what they were called with."""
    return subprocess.run(
        [root / "tools/launch.sh", *arguments], env=settings, capture_output=True, text=True, check=False
    )


@pytest.fixture
def says(tmp_path) -> str:
    """A PATH whose python, torchrun and srun print their arguments."""
    for name in ("python", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
    (tmp_path / "srun").write_text('#!/bin/sh\nshift\nSLURM_NODEID=1 exec "$@"\n')
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_an_update_is_the_same_on_any_number_of_gpus(root, says):
    one = launch(root, "8", "--exp", "x", PATH=says, num_gpus="1").stdout
    assert one == "python -m toolkit.bin.train --exp x --train.accumulation=8\n"
    four = launch(root, "8", "--exp", "x", PATH=says, num_gpus="4").stdout
    assert (
        four
        == "torchrun --standalone --nproc-per-node 4 -m toolkit.bin.train --exp x --train.accumulation=2\n"
    )
    nodes = {"num_gpus": "4", "num_nodes": "2", "master_addr": "first"}
    several = launch(root, "8", PATH=says, launcher="srun --ntasks-per-node=1", **nodes).stdout
    place = "--nnodes 2 --node-rank 1 --master-addr first --master-port 29500 --nproc-per-node 4"
    assert several == f"torchrun {place} -m toolkit.bin.train --train.accumulation=1\n"


def test_a_number_of_gpus_that_does_not_fit_is_refused(root, says):
    done = launch(root, "8", PATH=says, num_gpus="3")
    assert done.returncode == 2 and "expected numbers whose product divides the 8 batches" in done.stderr
    done = launch(root, "8", PATH=says, num_gpus="4", num_nodes="2")
    assert done.returncode == 2 and "master_addr: found nothing" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "small", "num_gpus"),
    [
        ("zipformer_base", TINY_FRONTEND + TINY_ZIPFORMER, "2"),
        ("zipformer_base_fbank", TINY_ZIPFORMER, "1"),
        ("hubert_base", TINY_FRONTEND + TINY_TRANSFORMER, "2"),
    ],
)
def test_every_stage(root, tmp_path, model, small, num_gpus):
    corpus = librispeech(tmp_path, {"train-clean-100": 8, "train-other-500": 4, "dev-clean": 4})
    settings = {
        **tiny(*small),
        **{"model": model, "num_gpus": num_gpus, "corpus": str(corpus)},
        **{"train_parts": "train-clean-100 train-other-500", "alignment": str(tmp_path / "letters.ctm")},
    }
    printed = run(root, "librispeech/ssl", tmp_path, **settings)
    check_experiment(tmp_path / "exp" / model)
    exp = tmp_path / "exp" / model
    assert len(open_cuts(tmp_path / "data/cuts_train.jsonl.gz")) == 12
    for number in (1, 2):
        labelled = list(SharCuts(exp / f"labels-{number}/train/shar", None))
        assert len(labelled) == 12
        assert all(abs(len(load_labels(cut)) - 50 * cut.duration) <= 4 for cut in labelled)
        assert json.loads((exp / f"labels-{number}/quality.json").read_text())["pnmi"] > 0
    assert json.loads((exp / "probe.json").read_text())
    assert "inertia" in printed
    again = run(root, "librispeech/ssl", tmp_path, **settings)
    assert again.count("done before") == len(STAGES)

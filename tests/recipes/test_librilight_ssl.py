"""egs/librilight/ssl: every stage on a generated corpus, and how recordings become cuts."""

import argparse
import importlib.util
import itertools
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import Recording, SupervisionSegment

from tests.recipes.corpora import librilight
from tests.recipes.test_librispeech_ssl import (
    STAGES,
    TINY_FRONTEND,
    TINY_ZIPFORMER,
    check_experiment,
    run,
    tiny,
)
from toolkit.data.manifests import open_cuts


@pytest.fixture(scope="module")
def segments(root):
    """The script, as a module."""
    path = root / "egs/librilight/ssl/local/segments.py"
    spec = importlib.util.spec_from_file_location("librilight_segments", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_names_stages_and_settings(root):
    text = run(root, "librilight/ssl", root, "--help")
    assert all(f" {stage} " in text for stage in STAGES)
    assert "teacher" in text and "hubert_large" in text


def test_with_a_teacher_there_is_one_round(root):
    text = run(root, "librilight/ssl", root, "--help", teacher="somewhere")
    assert " pretrain2 " not in text and " relabel " not in text and " average " in text


def test_a_teacher_needs_a_layer(root, tmp_path):
    for name in ("cuts_train.jsonl.gz", "model.safetensors"):
        (tmp_path / name).touch()
    folders = {"TOOLKIT_DATA": str(tmp_path), "TOOLKIT_EXP": str(tmp_path / "exp"), "teacher": str(tmp_path)}
    command = [root / "egs/librilight/ssl/run.sh", "kmeans"]
    done = subprocess.run(command, env={**os.environ, **folders}, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "layer: found nothing, expected the layer of the teacher" in done.stderr


def test_neighbours_are_joined_and_long_stretches_parted(segments):
    times = [(0.0, 4.0), (4.5, 9.0), (9.2, 12.0), (14.0, 15.0), (20.0, 51.2)]
    joined = list(segments.joined(times, 10.0, 1.0))
    assert joined == [(0.0, 9.0), (9.2, 12.0), (14.0, 15.0), (20.0, 51.2)]
    parts = list(segments.parted(joined, 10.0))
    assert parts[:3] == joined[:3] and len(parts) == 7
    assert all(7.7 < end - start < 7.9 for start, end in parts[3:])


@given(
    pieces=st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 40)), max_size=12),
    longest=st.floats(5, 20),
)
def test_all_speech_is_covered_once(segments, pieces, longest):
    edges = list(itertools.accumulate(part for piece in pieces for part in piece))
    times = list(zip(edges[::2], edges[1::2], strict=True))
    cuts = list(segments.parted(segments.joined(times, longest, 1.0), longest))
    assert all(end - start <= longest + 1e-3 for start, end in cuts)
    assert all(first[1] <= second[0] + 1e-4 for first, second in itertools.pairwise(cuts))
    covered = sum(end - start for start, end in cuts)
    speech = sum(end - start for start, end in times)
    assert speech - 0.01 <= covered <= speech + len(times) * 1.0 + 0.01


def test_cuts_of_a_recording(segments):
    recording = Recording("small/7/book/x", [], 16000, 16000 * 30, 30.0)
    spoken = [
        SupervisionSegment(str(i), recording.id, start, seconds, speaker="7")
        for i, (start, seconds) in enumerate([(0.5, 9.0), (11.0, 1.5), (14.0, 17.0)])
    ]
    limits = argparse.Namespace(min_seconds=2.0, max_seconds=15.6, max_pause=1.0)
    cuts = list(segments.stretches(recording, spoken, limits))
    assert [cut.id for cut in cuts] == [f"small-7-book-x-{number:04d}" for number in range(3)]
    assert [(cut.start, cut.duration) for cut in cuts] == [(0.5, 9.0), (14.0, 8.0), (22.0, 8.0)]
    assert all(cut.supervisions[0].speaker == "7" for cut in cuts)
    assert list(segments.stretches(recording, [], limits)) == []


@pytest.mark.slow
def test_every_stage(root, tmp_path):
    corpus = librilight(tmp_path, {"small": 3, "medium": 2})
    settings = {"corpus": str(corpus), "subsets": "small medium", "valid_share": "0.4", "num_gpus": "1"}
    run(root, "librilight/ssl", tmp_path, **tiny(*TINY_FRONTEND, *TINY_ZIPFORMER), **settings)
    check_experiment(tmp_path / "exp/zipformer_large")
    speakers = [
        {cut.supervisions[0].speaker for cut in open_cuts(tmp_path / f"data/cuts_{split}.jsonl.gz")}
        for split in ("train", "valid")
    ]
    assert all(speakers) and not speakers[0] & speakers[1] and len(speakers[0] | speakers[1]) == 5

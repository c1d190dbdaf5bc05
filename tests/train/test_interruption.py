"""Runs that are killed, stopped or shared out end as if nothing had happened. These start real processes."""

import os
import signal
import time

import pytest
import torch

from tests.train.processes import (
    SHORT,
    finish,
    metrics,
    run_with_kills,
    start,
    wait_until,
    weights,
)
from toolkit import checkpoint

ONE = [*SHORT, "--train.max_updates=30"]
TWO = [*SHORT, "--train.max_updates=12"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """An undisturbed run, and how many seconds it took."""
    folder, begin = tmp_path_factory.mktemp("one"), time.monotonic()
    finish(folder, ONE)
    return folder, time.monotonic() - begin


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """An undisturbed run of two processes, and how many seconds it took."""
    folder, begin = tmp_path_factory.mktemp("two"), time.monotonic()
    finish(folder, TWO, processes=2)
    return folder, time.monotonic() - begin


def test_two_runs_are_equal(one, tmp_path):
    finish(tmp_path, ONE)
    assert weights(tmp_path) == weights(one[0])
    assert metrics(tmp_path) == metrics(one[0])


def test_a_run_that_is_killed_ten_times_ends_the_same(one, tmp_path):
    assert run_with_kills(tmp_path / "exp", ONE, kills=10, reference=one[0], lifetime=one[1]) == []


@pytest.mark.slow
def test_a_run_that_is_killed_fifty_times_ends_the_same(one, tmp_path):
    assert run_with_kills(tmp_path / "exp", ONE, kills=50, reference=one[0], lifetime=one[1], seed=1) == []


def test_two_processes_equal_accumulation_over_two_batches(two, tmp_path):
    finish(tmp_path, [*TWO, "--train.accumulation=2"])
    shared, _ = checkpoint.load(two[0] / "model/model.safetensors")
    alone, _ = checkpoint.load(tmp_path / "model/model.safetensors")
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, rtol=0, atol=1e-5)
    for found, expected in zip(metrics(two[0]), metrics(tmp_path), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_two_processes_that_are_killed_end_the_same(two, tmp_path):
    assert (
        run_with_kills(tmp_path / "exp", TWO, kills=2, reference=two[0], lifetime=two[1], processes=2) == []
    )


@pytest.mark.slow
def test_two_processes_that_are_killed_ten_times_end_the_same(two, tmp_path):
    assert (
        run_with_kills(tmp_path / "exp", TWO, 10, reference=two[0], lifetime=two[1], processes=2, seed=1)
        == []
    )


def test_sigterm_to_the_whole_group_writes_a_checkpoint(one, tmp_path):
    """With a loader process, which gets the signal too."""
    settings = [*ONE, "--data.sampler.num_workers=1", "--train.checkpoint_every=1000"]
    process = start(tmp_path, settings)
    wait_until(lambda: (tmp_path / "metrics.jsonl").exists() and metrics(tmp_path) != [], process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(300) == 143, (tmp_path / "output.txt").read_text()
    assert "stopped by SIGTERM at update" in (tmp_path / "log.txt").read_text()
    (path,) = checkpoint.steps(tmp_path / "checkpoints")
    assert 0 < checkpoint.read_meta(path)["update"] < 30
    finish(tmp_path, ONE)
    assert weights(tmp_path) == weights(one[0])


@pytest.mark.slow
def test_the_debug_recipe_is_deterministic(tmp_path):
    for name in "ab":
        finish(tmp_path / name, [])
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.gpu
def test_a_run_on_a_gpu_repeats_exactly_if_asked_to(tmp_path):
    for name in "ab":
        finish(tmp_path / name, [*ONE, "--train.deterministic=true"])
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")

"""Checkpoints: whole or refused, averaged exactly, never lost."""

import os
import resource

import pytest
import torch
from torch import nn

from toolkit import checkpoint
from toolkit.errors import UserError


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.weight": torch.randn(3, 4, generator=generator).t(),  # not contiguous
        "model.half": torch.randn(5, generator=generator).bfloat16(),
        "model.count": torch.tensor(seed),
        "other": torch.randn(2, generator=generator, dtype=torch.float64),
    }


META = {"update": 7, "nested": {"text": "ä", "list": [1, 2.5, None]}}


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", tensors(), META)
    found, meta = checkpoint.load(tmp_path / "a.safetensors")
    assert meta == META == checkpoint.read_meta(tmp_path / "a.safetensors")
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_equal_content_gives_equal_bytes(tmp_path):
    checkpoint.save(tmp_path / "a", tensors(), META)
    checkpoint.save(tmp_path / "b", dict(reversed(tensors().items())), dict(reversed(META.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shared_memory_is_written_twice(tmp_path):
    tied = torch.ones(3)
    checkpoint.save(tmp_path / "a", {"x": tied, "y": tied, "part": tied[:2]})
    assert torch.equal(checkpoint.load(tmp_path / "a")[0]["part"], torch.ones(2))


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, tensors(), META)
    whole = path.read_bytes()
    for length in {*range(0, 20), *range(20, len(whole), 37), len(whole) - 1}:
        path.write_bytes(whole[:length])
        for read in (checkpoint.load, checkpoint.read_meta):
            with pytest.raises(UserError, match="a.safetensors: damaged checkpoint"):
                read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoint.load(path)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "text").write_text("this is no checkpoint but a text of some length, longer than a header")
    with pytest.raises(UserError, match="text: damaged checkpoint .*, expected a whole safetensors file"):
        checkpoint.load(tmp_path / "text")
    with pytest.raises(UserError, match="none: no such file, expected a checkpoint"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(UserError, match="no such file"):
        checkpoint.load(tmp_path)


def test_a_write_that_fails_half_way_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, tensors(0))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*a.safetensors'"):
            checkpoint.save(path, tensors(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_latest_that_reads_back(tmp_path):
    assert checkpoint.latest(tmp_path) == (None, [])
    paths = [checkpoint.step_path(tmp_path, step) for step in (5, 20, 100)]
    for path in paths:
        checkpoint.save(path, tensors())
    (tmp_path / "step-xyz.safetensors").write_text("something else")
    assert checkpoint.steps(tmp_path) == paths
    assert checkpoint.latest(tmp_path) == (paths[2], [])
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    found, damaged = checkpoint.latest(tmp_path)
    assert found == paths[1] and len(damaged) == 1 and str(paths[2]) in damaged[0]
    for path in paths:
        path.write_bytes(b"")
    found, damaged = checkpoint.latest(tmp_path)
    assert found is None and len(damaged) == 3


def test_prune_keeps_the_newest(tmp_path):
    for step in (5, 20, 100, 99999999, 100000000):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {})
    (tmp_path / ".step-00000100.safetensors.abc.tmp").write_text("left by a process that died")
    (tmp_path / "notes.txt").write_text("not ours")
    checkpoint.prune(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == [
        "notes.txt",
        "step-100000000.safetensors",
        "step-99999999.safetensors",
    ]


def test_average_equals_the_mean_in_double_precision(tmp_path):
    paths = []
    for seed in range(5):
        paths.append(checkpoint.step_path(tmp_path, seed))
        checkpoint.save(paths[-1], tensors(seed))
    mean = checkpoint.average(paths)
    assert mean.keys() == {"weight", "half", "count"}
    for name in ("weight", "half"):
        expected = torch.stack([tensors(seed)[f"model.{name}"].double() for seed in range(5)]).mean(0)
        assert mean[name].dtype == tensors()[f"model.{name}"].dtype
        torch.testing.assert_close(mean[name], expected.to(mean[name].dtype), rtol=0, atol=0)
    assert mean["count"] == 4 and mean["count"].dtype == torch.int64


def test_averages_of_different_models_are_refused(tmp_path):
    for step, shape in ((1, 2), (2, 3)):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {"model.x": torch.zeros(shape)})
    with pytest.raises(UserError, match="step-00000002.safetensors: holds other tensors than .*00000001"):
        checkpoint.average(checkpoint.steps(tmp_path))
    with pytest.raises(UserError, match="holds other tensors"):
        checkpoint.average(checkpoint.steps(tmp_path)[:1], prefix="average.")


def test_weights_of_another_model():
    model = nn.Linear(2, 3)
    good = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    checkpoint.load_weights(model, good, "a")
    assert torch.equal(model.weight, torch.ones(3, 2))
    bad = {"bias": torch.zeros(4), "w1": torch.zeros(1), "w2": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        checkpoint.load_weights(model, bad, "exp/model.safetensors")
    assert str(caught.value) == (
        "exp/model.safetensors: weights of another model: 1 missing (weight); 2 unknown (w1, w2); "
        "1 of another shape (bias (4,) instead of (3,))"
    )
    many = {f"x{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(UserError, match=r"9 unknown \(x0, x1, x2, ...\)"):
        checkpoint.load_weights(model, good | many, "a")
    assert torch.equal(model.weight, torch.ones(3, 2))

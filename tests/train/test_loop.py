"""The train loop on a toy task: its arithmetic, its faults, its resumption."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from tests.train.toy import ToyModel, ToyTask, batch, infinite_gradient, toy_trainer, weights
from toolkit import checkpoint
from toolkit.data.batch import AudioBatch
from toolkit.errors import UserError
from toolkit.optim.scaled_adam import ScaledAdamConfig

pytestmark = pytest.mark.usefixtures("process_settings")


class NoRoom(AudioBatch):
    """A batch for which the device has no room."""


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], **{"rtol": 0, "atol": 0} | tolerance)


def metrics(folder, split="train"):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["split"] == split]


def reference(updates, accumulation=1, clip=5.0, decay=0.0, freeze=0):
    """What the loop is to do, written down plainly: one big batch an update, torch's own AdamW and clipping."""
    torch.manual_seed(7)
    model = ToyModel(0.0)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = [
        {
            "params": [p],
            "factor": 0.5 if name.startswith("speech.") else 1.0,
            "weight_decay": 0.1 * (p.ndim > 1),
        }
        for name, p in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98))
    norms = []
    for update in range(updates):
        rows = [batch(update * accumulation + i).waveforms for i in range(accumulation)]
        x = torch.cat(rows)
        loss = (model(x) - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf")).item())
        ramp = min(1, (update + 1) / 3)
        rate = 0.05 * ramp * (1 - max(0, update - 3) / (updates - 3))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"] * (0 if update < freeze and group["factor"] == 0.5 else 1)
        optimizer.step()
        current = min(decay, (1 + update) / (10 + update))
        for name, p in model.named_parameters():
            average[name] = current * average[name] + (1 - current) * p.detach()
    result = weights(model)
    return (result | average if decay else result), norms


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulation": 3},
        {"clip_norm": 0.2},
        {"clip_norm": 0.0},
        {"average_decay": 0.6},
        {"freeze_updates": 5},
        {"accumulation": 2, "clip_norm": 0.5, "average_decay": 0.9, "freeze_updates": 2},
    ],
    ids=str,
)
def test_updates_equal_the_reference(tmp_path, settings):
    found = toy_trainer(tmp_path, **settings).run()
    names = {
        "accumulation": "accumulation",
        "clip_norm": "clip",
        "average_decay": "decay",
        "freeze_updates": "freeze",
    }
    expected, norms = reference(12, **{names[key]: value for key, value in settings.items()})
    assert_equal(weights(found), expected, rtol=1e-5, atol=1e-6)
    assert [row["grad_norm"] for row in metrics(tmp_path)] == pytest.approx(
        [norms[3], norms[7], norms[11]], abs=1e-4
    )


def test_metrics(tmp_path):
    toy_trainer(tmp_path, valid_every=6).run()
    rows = metrics(tmp_path)
    assert [(row["step"], row["epoch"]) for row in rows] == [(4, 0), (8, 1), (12, 1)]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.05 * 5 / 9, 0.05 / 9])
    assert all(row["padding"] == 0.5 and row["audio_per_second"] > 0 and row["elapsed"] >= 0 for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["error"] > 0
    assert [row["step"] for row in metrics(tmp_path, "valid")] == [6, 12]
    assert set(metrics(tmp_path, "valid")[0]) == {"step", "epoch", "split", "loss", "error"}
    assert any((tmp_path / "tensorboard").iterdir())
    assert "12 updates" in (tmp_path / "log.txt").read_text()


def test_validation_is_of_the_average_and_without_dropout(tmp_path):
    trainer = toy_trainer(tmp_path, ToyTask(dropout=0.5), average_decay=0.9)
    model = trainer.run()
    assert model is trainer.state.average and not model.training and trainer.state.model.training
    x = torch.cat([batch(1000).waveforms, batch(1001).waveforms])
    expected = (model(x) - x.sum(1)).square().mean().item()
    assert metrics(tmp_path, "valid")[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_no_validation_data(tmp_path):
    task = ToyTask()
    task.num_validation = 0
    toy_trainer(tmp_path, task, valid_every=4).run()
    assert metrics(tmp_path, "valid") == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_about_the_same(tmp_path, precision):
    exact = metrics(tmp_path / "a") if toy_trainer(tmp_path / "a", max_updates=40).run() else None
    model = toy_trainer(tmp_path / "b", precision=precision, max_updates=40).run()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert metrics(tmp_path / "b")[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.2)


def interrupted(folder, task=None, **settings):
    """A run that SIGTERM reaches in its 6th update."""
    task = task or ToyTask()
    task.spoil = lambda update, _: os.kill(os.getpid(), signal.SIGTERM) if update == 5 else None
    with pytest.raises(SystemExit) as caught:
        toy_trainer(folder, task, **settings).run()
    assert caught.value.code == 143
    path = checkpoint.steps(folder / "checkpoints")[-1]
    assert checkpoint.read_meta(path)["update"] in (6, 7)
    return path


@pytest.mark.parametrize(
    "settings",
    [{}, {"log_every": 1, "checkpoint_every": 100}, {"average_decay": 0.9, "precision": "fp16"}],
    ids=str,
)
def test_sigterm_writes_a_checkpoint_from_which_the_run_goes_on(tmp_path, settings):
    whole = toy_trainer(tmp_path / "whole", ToyTask(dropout=0.5), **settings).run()
    path = interrupted(tmp_path / "cut", ToyTask(dropout=0.5), **settings)
    resumed = toy_trainer(tmp_path / "cut", ToyTask(dropout=0.5), **settings)
    assert_equal(weights(resumed.run()), weights(whole))
    assert metrics(tmp_path / "cut")[-1]["step"] == 12
    log = (tmp_path / "cut" / "log.txt").read_text()
    assert "stopped by SIGTERM" in log and f"going on from {path}" in log


def test_accumulation_may_change_between_starts(tmp_path):
    """12 updates of 2 batches, as 24 batches: the second half of them by two, again with the same batches."""
    task, seen = ToyTask(), []
    task.make_batch = lambda total: seen.append(total) or batch(total)
    interrupted(tmp_path, task, accumulation=2)
    done = checkpoint.read_meta(checkpoint.latest(tmp_path / "checkpoints")[0])["consumed"]
    seen.clear()
    toy_trainer(tmp_path, task, accumulation=3).run()
    assert seen[0] == done and seen == list(range(done, done + len(seen)))


def test_a_finished_run_stays_as_it_is(tmp_path):
    first = weights(toy_trainer(tmp_path).run())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert_equal(weights(toy_trainer(tmp_path).run()), first)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert len(checkpoint.steps(tmp_path / "checkpoints")) == 2


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    whole = weights(toy_trainer(tmp_path).run())
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    assert_equal(weights(toy_trainer(tmp_path).run()), whole)
    log = (tmp_path / "log.txt").read_text()
    assert f"passed over {newest}: damaged checkpoint" in log and "(update 8)" in log
    for path in checkpoint.steps(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match="damaged checkpoint .*; no other checkpoint to go on from, --restart"
    ):
        toy_trainer(tmp_path)


def test_other_settings_are_another_run(tmp_path):
    interrupted(tmp_path)
    message = r"step-\d+.safetensors: this experiment was started with other settings \(train.average_decay was 0.0, is"
    with pytest.raises(UserError, match=message):
        toy_trainer(tmp_path, average_decay=0.5)
    trainer = toy_trainer(
        tmp_path, lr=0.01, clip_norm=1.0, max_updates=13, log_every=1, threads=1, keep_checkpoints=3
    )
    assert trainer.state.update in (6, 7)
    log = (tmp_path / "log.txt").read_text()
    assert "with another setting: optim.lr was 0.05, is 0.01" in log
    assert "with another setting: train.clip_norm was 5.0, is 1.0" in log


def not_a_number(update, batch):
    if update == 6:
        batch.waveforms[0, 0] = float("nan")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite(tmp_path, accumulation):
    with pytest.raises(UserError) as caught:
        toy_trainer(tmp_path, ToyTask(not_a_number), accumulation=accumulation).run()
    message = str(caught.value)
    path = tmp_path / "failed" / "update-6-rank-0-0.json"
    assert message.startswith(
        f"update 6: the loss or its gradient is not finite; its batch is described in {path}"
    )
    assert "\n" not in message and "optim.lr" in message
    written = json.loads(path.read_text())
    guilty = batch(6 * accumulation)
    assert written["cut_ids"] == guilty.ids and written["padded_shape"] == list(guilty.waveforms.shape)
    assert written["problem"] == "loss or gradient not finite" and sum(written["seconds"]) == guilty.seconds
    # Nothing that came of it is kept, and the advice can be followed.
    assert checkpoint.read_meta(checkpoint.latest(tmp_path / "checkpoints")[0])["update"] == 4
    toy_trainer(tmp_path, lr=0.001, clip_norm=1.0, accumulation=accumulation).run()


def test_a_gradient_that_is_not_finite(tmp_path):
    task = infinite_gradient(ToyTask(), lambda update: update == 2)
    with pytest.raises(UserError, match="update 2: the loss or its gradient is not finite"):
        toy_trainer(tmp_path, task).run()


def test_fp16_passes_over_an_update_whose_gradient_is_not_finite(tmp_path):
    task = infinite_gradient(ToyTask(), lambda update: update == 2)
    model = toy_trainer(tmp_path, task, precision="fp16").run()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_fp16_that_never_learns_is_no_success(tmp_path):
    task = infinite_gradient(ToyTask(), lambda update: True)
    with pytest.raises(
        UserError, match="update 31: the loss or its gradient is not finite; .*train.precision"
    ):
        toy_trainer(tmp_path, task, precision="fp16", max_updates=40).run()
    assert (tmp_path / "failed" / "update-31-rank-0-0.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "cublas", "python"],
)
@pytest.mark.parametrize("where", ["loss", "transfer", "step"])
def test_out_of_memory(tmp_path, monkeypatch, error, where):
    def fail(*_):
        raise error

    task = ToyTask(lambda update, _: fail() if (update, where) == (6, "loss") else None)
    trainer = toy_trainer(tmp_path, task)
    if where == "transfer":
        task.make_batch = lambda total: batch(total, AudioBatch if total != 6 else NoRoom)
        monkeypatch.setattr(NoRoom, "to", fail)
    elif where == "step":
        step = trainer.state.optimizer.step
        trainer.state.optimizer.step = lambda: fail() if task.update == 6 else step()
    with pytest.raises(UserError) as caught:
        trainer.run()
    path = tmp_path / "failed" / "update-6-rank-0.json"
    assert str(caught.value).startswith(
        f"update 6: out of memory with 4 x 2.0 s; the batch is described in {path}"
    )
    assert "data.sampler.max_duration" in str(caught.value)
    assert json.loads(path.read_text())["cut_ids"] == batch(6).ids


def test_out_of_memory_in_validation(tmp_path):
    task = ToyTask()
    plain = task.loss

    def loss(model, batch):
        if not model.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(model, batch)

    task.loss = loss
    with pytest.raises(UserError, match="update 6: out of memory with 1 x 2.0 s; the batch is described in"):
        toy_trainer(tmp_path, task, valid_every=6).run()
    written = json.loads((tmp_path / "failed" / "update-6-rank-0.json").read_text())
    assert written["cut_ids"] == batch(1000).ids


def test_other_errors_are_not_hidden(tmp_path):
    def spoil(update, _):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        toy_trainer(tmp_path, ToyTask(spoil)).run()


def test_looking_for_large_batches_first_changes_nothing(tmp_path):
    plain = toy_trainer(tmp_path / "a", ToyTask(dropout=0.5)).run()
    scanned = toy_trainer(tmp_path / "b", ToyTask(dropout=0.5), scan_batches=3).run()
    assert_equal(weights(scanned), weights(plain))
    drop = {"elapsed", "audio_per_second"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in metrics(tmp_path / n)] for n in "ab"]
    assert rows[0] == rows[1]
    assert "largest batch fits: 4 x 2.0 s" in (tmp_path / "b" / "log.txt").read_text()


def unusable(total):
    made = batch(total)
    made.placeholder, made.seconds = True, 0.0
    made.skipped = [{"id": f"cut{total % 3}", "path": "x.wav", "reason": "empty: no samples"}]
    made.waveforms[:] = 9.0
    return made


def test_a_batch_without_a_usable_recording_has_no_weight(tmp_path):
    task = ToyTask()
    task.make_batch = lambda total: unusable(total) if total % 2 else batch(total // 2)
    found = toy_trainer(tmp_path, task, accumulation=2).run()
    assert_equal(
        {name: t for name, t in weights(found).items() if name != "seen"},
        {name: t for name, t in reference(12)[0].items() if name != "seen"},
        rtol=1e-5,
        atol=1e-6,
    )
    assert all(row["padding"] < 1 for row in metrics(tmp_path))


def test_an_update_without_a_usable_recording_is_passed_over(tmp_path):
    task = ToyTask()
    task.make_batch = lambda total: unusable(total) if 4 <= total < 8 else batch(total)
    model = toy_trainer(tmp_path, task).run()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["cut1", "cut2", "cut0"]
    assert metrics(tmp_path)[1]["loss"] == 0
    assert (
        "skipped cut1: empty: no samples (1 so far, see skipped.jsonl)" in (tmp_path / "log.txt").read_text()
    )


def test_a_run_without_any_usable_recording_gives_up(tmp_path):
    task = ToyTask()
    task.make_batch = unusable
    message = "update 19: found nothing to learn from in the last 20 updates, .*skipped.jsonl lists what was skipped"
    with pytest.raises(UserError, match=message):
        toy_trainer(tmp_path, task, max_updates=100).run()


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {},
            "train.clip_norm: found 5.0, expected 0 with optim.optimizer.name=scaled_adam, which clips by itself",
        ),
        (
            {"clip_norm": 0, "precision": "fp16"},
            "train.precision: found fp16, expected bf16 or fp32 with optim.optimizer.name=scaled_adam",
        ),
    ],
)
def test_what_does_not_go_with_scaled_adam_is_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        toy_trainer(tmp_path, optimizer=ScaledAdamConfig(), **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("clip_norm, clipping_scale", [(0, 2.0), (5, 0)])
def test_scaled_adam_trains_with_one_clipping(tmp_path, clip_norm, clipping_scale):
    optimizer = ScaledAdamConfig(clipping_scale=clipping_scale)
    trainer = toy_trainer(tmp_path, optimizer=optimizer, clip_norm=clip_norm, precision="bf16")
    before = weights(trainer.state.model)
    after = weights(trainer.run())
    assert any(not torch.equal(before[name], after[name]) for name in before if name != "seen")

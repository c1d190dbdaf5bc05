"""The running average, and state on its way to disk and back."""

import pytest
import torch
from torch import nn

from tests.train.toy import ToyTask, toy_trainer, weights
from toolkit import checkpoint
from toolkit.errors import UserError
from toolkit.train.state import make_average, update_average

pytestmark = pytest.mark.usefixtures("process_settings")


def test_the_average_equals_the_sum_over_all_updates():
    """Unrolled: each update's weights count (1 - decay) times the product of all later decays."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = make_average(model)
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    history = [weights(model)]
    for update in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
            model[1].running_mean.add_(1)
            model[1].num_batches_tracked.add_(1)
        update_average(average, model, 0.8, update)
        history.append(weights(model))
    decays = [min(0.8, (1 + update) / (10 + update)) for update in range(30)]
    for name, parameter in average.named_parameters():
        expected = history[0][name].double() * torch.tensor(decays).double().prod()
        for update, decay in enumerate(decays):
            later = torch.tensor(decays[update + 1 :]).double().prod()
            expected += (1 - decay) * later * history[update + 1][name].double()
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(average[1].running_mean, model[1].running_mean)
    assert average[1].num_batches_tracked == 30


class Taught(ToyTask):
    """With a teacher, which the optimiser leaves alone."""

    def build_model(self):
        model = super().build_model()
        model.teacher = nn.Linear(2, 2).requires_grad_(False)
        return model

    def after_update(self, model):
        with torch.no_grad():
            model.teacher.weight.add_(1)


def test_a_teacher_is_not_averaged(tmp_path):
    """The average has the model's own; a checkpoint has it under both names."""
    trainer = toy_trainer(tmp_path, Taught(), average_decay=0.9)
    average, model = trainer.run(), trainer.state.model
    assert average.teacher.weight is model.teacher.weight
    assert not torch.equal(average.speech.weight, model.speech.weight)
    path = checkpoint.steps(tmp_path / "checkpoints")[-1]
    tensors, meta = checkpoint.load(path)
    assert torch.equal(tensors["average.teacher.weight"], tensors["model.teacher.weight"])
    assert tensors.keys() >= {f"average.{name}" for name in model.state_dict()}
    # As in checkpoints of the time when it was averaged.
    tensors["average.teacher.weight"] -= 1
    checkpoint.save(path, tensors, meta)
    again = toy_trainer(tmp_path, Taught(), average_decay=0.9).state
    assert torch.equal(again.model.teacher.weight, tensors["model.teacher.weight"])
    assert again.average.teacher.weight is again.model.teacher.weight


def test_everything_comes_back_from_disk(tmp_path):
    trainer = toy_trainer(tmp_path, average_decay=0.9, precision="fp16")
    trainer.run()
    fresh = toy_trainer(tmp_path, average_decay=0.9, precision="fp16").state
    old = trainer.state
    assert (fresh.update, fresh.position, fresh.consumed) == (12, (1, 4, 11), 12)
    assert (fresh.update, fresh.position, fresh.consumed) == (old.update, old.position, old.consumed)
    assert fresh.elapsed == old.elapsed > 0 and fresh.scaler.state_dict() == old.scaler.state_dict() != {}
    for mine, other in ((fresh.model, old.model), (fresh.average, old.average)):
        assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(mine).items())
    moments, expected = fresh.optimizer.state_dict(), old.optimizer.state_dict()
    assert moments["state"].keys() == expected["state"].keys()
    for index, values in expected["state"].items():
        assert all(torch.equal(moments["state"][index][name], value) for name, value in values.items())


@pytest.mark.parametrize("old, new", [("fp32", "fp16"), ("bf16", "fp16"), ("fp16", "fp32")])
def test_a_run_may_go_on_in_another_precision(tmp_path, old, new):
    toy_trainer(tmp_path, precision=old).run()
    trainer = toy_trainer(tmp_path, precision=new, max_updates=16)
    trainer.run()
    assert trainer.state.update == 16 and trainer.state.scaler.is_enabled() == (new == "fp16")


def test_a_checkpoint_of_another_model(tmp_path):
    toy_trainer(tmp_path).run()
    path = checkpoint.steps(tmp_path / "checkpoints")[-1]
    tensors, meta = checkpoint.load(path)
    tensors["model.extra"] = tensors.pop("model.speech.bias")
    checkpoint.save(path, tensors, meta)
    with pytest.raises(
        UserError, match=r"weights of another model: 1 missing \(speech.bias\); 1 unknown \(extra\)"
    ):
        toy_trainer(tmp_path)


def test_old_checkpoints_go(tmp_path):
    toy_trainer(tmp_path, checkpoint_every=2, keep_checkpoints=3).run()
    assert [path.name[5:13] for path in checkpoint.steps(tmp_path / "checkpoints")] == [
        "00000008",
        "00000010",
        "00000012",
    ]

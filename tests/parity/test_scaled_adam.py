"""ScaledAdam with Eden against icefall's."""

import pytest
import torch

from toolkit.optim.build import OptimConfig, build_optimizer, set_learning_rate
from toolkit.optim.scaled_adam import ScaledAdamConfig
from toolkit.optim.schedule import EdenSchedule


def test_weights_and_learning_rates(vectors):
    for tensors, settings in vectors("scaled_adam_eden"):
        assert settings["loss"] == "mse, mean"
        initial = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("init.")}
        (inner, features), outer = initial["0.weight"].shape, len(initial["2.bias"])
        model = torch.nn.Sequential(
            torch.nn.Linear(features, inner), torch.nn.Tanh(), torch.nn.Linear(inner, outer)
        )
        model.load_state_dict(initial)
        schedule = EdenSchedule(
            lr_updates=settings["lr_batches"],
            lr_epochs=settings["lr_epochs"],
            warmup_updates=int(settings["warmup_batches"]),
            warmup_start=settings["warmup_start"],
        )
        config = OptimConfig(
            settings["lr"], ScaledAdamConfig(clipping_scale=settings["clipping_scale"] or 0.0), schedule
        )
        optimizer = build_optimizer(model, config, lambda name: 1.0, lambda name: False)
        steps = {int(name[4 : name.index(".")]) for name in tensors if name.startswith("step")}
        for update, (x, target) in enumerate(zip(tensors["data"], tensors["target"], strict=True)):
            lr = config.lr * schedule.factor(update, len(tensors["lr"]), update // settings["epoch_every"])
            assert lr == pytest.approx(float(tensors["lr"][update]), rel=1e-6)
            set_learning_rate(optimizer.param_groups, lr, frozen=False)
            torch.nn.functional.mse_loss(model(x), target).backward()
            optimizer.step()
            optimizer.zero_grad()
            if update + 1 in steps:
                steps.remove(update + 1)
                for name, weight in model.state_dict().items():
                    expected = tensors[f"step{update + 1}.{name}"]
                    torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-5)
        assert not steps

"""Groups of parameters: decay, learning rates, freezing; and AdamW against its formula."""

import copy
import math

import pytest
import torch
from torch import nn

from toolkit.optim.build import AdamWConfig, OptimConfig, build_optimizer, set_learning_rate


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.speech = nn.Sequential(nn.Conv1d(2, 3, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 2)
        self.still = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def build(model, factor=0.1, **settings):
    config = OptimConfig(lr=0.5, optimizer=AdamWConfig(**settings))
    pretrained = lambda name: name.startswith("speech.")  # noqa: E731
    return build_optimizer(model, config, lambda name: factor if pretrained(name) else 1.0, pretrained)


def test_groups():
    model = Model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build(model, weight_decay=0.3).param_groups
    found = {
        names[p]: (group["weight_decay"], group["lr_factor"], group["pretrained"])
        for group in groups
        for p in group["params"]
    }
    assert found == {
        "speech.0.weight": (0.3, 0.1, True),
        "speech.0.bias": (0.0, 0.1, True),
        "speech.1.weight": (0.0, 0.1, True),
        "speech.1.bias": (0.0, 0.1, True),
        "head.weight": (0.3, 1.0, False),
        "head.bias": (0.0, 1.0, False),
    }


def test_learning_rates_follow_their_factors_and_the_frozen_stay():
    optimizer = build(Model())
    set_learning_rate(optimizer.param_groups, 0.2, frozen=False)
    rates = {group["pretrained"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {True: pytest.approx(0.02), False: pytest.approx(0.2)}
    set_learning_rate(optimizer.param_groups, 0.2, frozen=True)
    assert {g["pretrained"]: g["lr"] for g in optimizer.param_groups} == {True: 0.0, False: 0.2}


def test_frozen_parameters_do_not_move():
    model = Model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = build(model, weight_decay=0.3)
    set_learning_rate(optimizer.param_groups, 0.2, frozen=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name.startswith("speech.") or name == "still")


def test_steps_equal_the_formula():
    """Loshchilov and Hutter, algorithm 2, in double precision and plain Python."""
    beta1, beta2, eps, decay, lr = 0.9, 0.98, 1e-8, 0.1, 0.5
    weight = nn.Parameter(torch.tensor([[0.7, -1.3]], dtype=torch.float64))
    holder = nn.Module()
    holder.weight = weight
    optimizer = build(holder, betas=[beta1, beta2], eps=eps, weight_decay=decay)
    expected, first, second = weight[0].tolist(), [0.0, 0.0], [0.0, 0.0]
    for step in range(1, 6):
        gradients = [math.sin(step), math.cos(3 * step)]
        weight.grad = torch.tensor([gradients], dtype=torch.float64)
        set_learning_rate(optimizer.param_groups, lr, frozen=False)
        optimizer.step()
        for i, gradient in enumerate(gradients):
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient**2
            move = first[i] / (1 - beta1**step) / (math.sqrt(second[i] / (1 - beta2**step)) + eps)
            expected[i] -= lr * (move + decay * expected[i])
    assert weight[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_adamw_goes_on_with_weights_in_another_order_in_memory_than_what_is_saved():
    torch.manual_seed(0)
    gradients = torch.randn(4, 4, 3, 5, 2)
    model = nn.Conv2d(3, 4, (5, 2), bias=False).to(memory_format=torch.channels_last)
    optimizer = build(model)

    def step(model, optimizer, gradient):
        model.weight.grad = torch.empty_like(model.weight).copy_(gradient)
        optimizer.step()

    for gradient in gradients[:2]:
        step(model, optimizer, gradient)
    # As a file holds them.
    saved = optimizer.state_dict()
    moments = {key: v.clone(memory_format=torch.contiguous_format) for key, v in saved["state"][0].items()}
    restored = copy.deepcopy(model)
    other = build(restored)
    other.load_state_dict(saved | {"state": {0: moments}})
    for gradient in gradients[2:]:
        step(model, optimizer, gradient)
        step(restored, other, gradient)
    assert not model.weight.is_contiguous()
    assert torch.equal(restored.weight, model.weight)

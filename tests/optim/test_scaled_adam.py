"""ScaledAdam against a slow twin in double precision; what it saves; what it never does."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.optim import scaled_adam
from toolkit.optim.scaled_adam import STACKED, ScaledAdam, ScaledAdamConfig, Stacks
from toolkit.train.state import State

# (shape, size): scalars of every form, equal shapes, one too large to be stacked, some beyond the limits of sizes.
SHAPES = [
    ((), 0.9),
    ((3, 5), 1.0),
    ((1,), 1.0),
    ((3, 5), 2.99),
    ((20, 7), 0.1),
    ((4, 1, 5), 1e-6),
    ((1, 1), 1.0),
    ((6,), 0.0),
    ((7,), 4.0),
    ((STACKED // 10, 11), 0.5),
]


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter((size * torch.randn(shape, generator=generator)).to(dtype)) for shape, size in SHAPES
    ]


def set_gradients(params, update):
    """Of sizes that differ from update to update, so that some are clipped; one is not there now and then."""
    generator = torch.Generator().manual_seed(update)
    scale = 50.0 if update % 7 == 0 else 1 / (1 + update)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p) - 0.1 * p.detach()
    if update % 5 == 0:
        params[1].grad = None


class Twin:
    """One group, a parameter at a time, in the words of the method."""

    def __init__(self, params, config):
        self.params, self.config, self.norms, self.threshold, self.step = params, config, [], math.inf, 0
        self.clipped = 0
        self.state = [
            {"v": torch.zeros_like(p), "delta": torch.zeros_like(p), "scale_v": 0.0, "scale_grads": []}
            for p in params
        ]
        for p, state in zip(params, self.state, strict=True):
            state["rms"] = float(p.detach().square().mean().sqrt())

    def update(self, lr):
        c, grads = self.config, [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        clip = self.clip(grads)
        self.clipped += clip < 1
        for p, g, state in zip(self.params, grads, self.state, strict=True):
            move = self.move(p.detach(), g * clip, state, lr)
            state["delta"] = c.betas[0] * state["delta"] + (1 - c.betas[0]) * move
            p.data += state["delta"]
            if p.numel() == 1:
                p.data.clamp_(-c.scalar_max, c.scalar_max)
        self.step += 1

    def clip(self, grads):
        c, step, period = self.config, self.step, self.config.clipping_update_period
        if not c.clipping_scale:
            return 1.0
        total = 0.0
        for p, g, state in zip(self.params, grads, self.state, strict=True):
            size = c.scalar_lr_scale if p.numel() == 1 else state["rms"]
            total += float((g * size).square().sum())
        self.norms.append(math.sqrt(total))
        early = step in (10, 20, 40) and step < period
        if early or (step and step % period == 0):
            # All norms but that of the very first update, whose parameters had no size yet.
            recent = sorted(self.norms[1:][-period:])
            median = recent[min(len(recent) - 1, 2 * (len(recent) // 4))]
            self.threshold = c.clipping_scale * median * (2 if early else 1)
        return min(1.0, self.threshold / (self.norms[-1] + 1e-20))

    def move(self, p, g, state, lr):
        c, period, beta2 = self.config, self.config.size_update_period, self.config.betas[1]
        state["v"] = beta2 * state["v"] + (1 - beta2) * g * g
        correction = 1 - beta2 ** (self.step + 1)
        mean_square = state["v"] / correction if correction < 0.99 else state["v"]
        direction = -lr * g / (mean_square.sqrt() + c.eps)
        if p.numel() == 1:
            return c.scalar_lr_scale * direction
        state["scale_grads"].append(float((p * g).sum()))
        if len(state["scale_grads"]) < period:
            return direction * max(state["rms"], c.param_min_rms)
        recent, state["scale_grads"] = state["scale_grads"], []
        state["rms"] = rms = float(p.square().mean().sqrt())
        decay = beta2**period
        state["scale_v"] = decay * state["scale_v"] + (1 - decay) * sum(x * x for x in recent) / period
        correction = math.sqrt(1 - decay ** ((self.step + 1) // period))
        growth = -lr * c.scalar_lr_scale * correction * sum(recent) / (math.sqrt(state["scale_v"]) + c.eps)
        growth = 0.0 if rms < c.param_min_rms else max(-0.1, min(0.1, growth))
        if rms > 0:
            growth = min(growth, (c.param_max_rms - rms) / rms)
        return direction * max(rms, c.param_min_rms) + growth * p


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clipping_update_period": 12, "size_update_period": 3, "param_max_rms": 1.0},
        {"clipping_scale": 0.0, "betas": [0.5, 0.9], "scalar_lr_scale": 0.5, "scalar_max": 1.5, "eps": 1e-3},
    ],
    ids=["defaults", "other periods", "no clipping"],
)
def test_updates_equal_the_slow_twin(changes):
    config = ScaledAdamConfig(**changes)
    params, expected = parameters(), parameters()
    rates = [0.5, 0.2]
    groups = [{"params": params[:4], "lr": rates[0]}, {"params": params[4:], "lr": rates[1]}]
    optimizer = ScaledAdam(groups, config, 1.0)
    twins = [Twin(expected[:4], config), Twin(expected[4:], config)]
    for update in range(130):
        set_gradients(params, update)
        for mine, other in zip(params, expected, strict=True):
            other.grad = mine.grad
        factor = 0.0 if update == 0 else 1 / (1 + update / 50)
        for group, lr, twin in zip(optimizer.param_groups, rates, twins, strict=True):
            group["lr"] = lr * factor
            twin.update(lr * factor)
        optimizer.step()
        for mine, other in zip(params, expected, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)
    assert all(twin.clipped > 5 for twin in twins) or not config.clipping_scale
    assert all(float(params[row].detach().abs()) <= config.scalar_max for row in (0, 2, 6))


def test_it_learns():
    """A line through points, from a bad start."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(64, 4)
    target = x @ torch.tensor([[0.5], [-1.0], [2.0], [0.1]]) + 0.3
    optimizer = ScaledAdam([{"params": list(model.parameters())}], ScaledAdamConfig(), 0.045)
    for _ in range(300):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 1e-3


def test_frozen_groups_do_not_move():
    params = parameters()
    optimizer = ScaledAdam([{"params": params[:5]}, {"params": params[5:]}], ScaledAdamConfig(), 0.1)
    for update in range(12):
        # Frozen at first, free, then frozen again while the mean of the steps is not zero.
        frozen = not 4 <= update < 8
        optimizer.param_groups[1]["lr"] = 0.0 if frozen else 0.1
        before = [p.detach().clone() for p in params]
        set_gradients(params, update)
        optimizer.step()
        still = [torch.equal(old, new) for old, new in zip(before, params, strict=True)]
        assert still[4:] == [False] + [frozen] * 5


def trained(updates, folder=None, resume_at=None):
    """Weights after some updates in float32; on the way through a file if asked."""
    model = nn.ParameterList(parameters(torch.float32))
    groups = [{"params": list(model)[:4]}, {"params": list(model)[4:]}]
    state = State(
        model, ScaledAdam(groups, ScaledAdamConfig(clipping_update_period=15), 0.05), None, scaler()
    )
    for update in range(updates):
        if update == resume_at:
            state.update = update
            state.save(folder, keep=2)
            fresh = trained(0)
            fresh.restore(folder / f"step-{update:08d}.safetensors", lambda key: False)
            state = fresh
        set_gradients(list(state.model), update)
        state.optimizer.step()
    return state


def scaler():
    return torch.amp.GradScaler("cpu", enabled=False)


@pytest.mark.parametrize("resume_at", [1, 6, 22])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, resume_at):
    whole, resumed = trained(40), trained(40, tmp_path, resume_at)
    for mine, other in zip(resumed.model, whole.model, strict=True):
        assert torch.equal(mine, other)
    mine, other = resumed.optimizer.state_dict(), whole.optimizer.state_dict()
    assert set(mine["state"]) == set(range(len(SHAPES)))
    for index, values in other["state"].items():
        assert mine["state"][index].keys() == values.keys()
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(mine["state"][index][name]), torch.as_tensor(value))


class NoLooking(TorchDispatchMode):
    """Fails where a tensor's value reaches Python."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name() not in (
            "aten::_local_scalar_dense",
            "aten::item",
            "aten::nonzero",
            "aten::is_nonzero",
            "aten::equal",
        ), func.name()
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_a_value():
    params = parameters(torch.float32)
    optimizer = ScaledAdam([{"params": params}], ScaledAdamConfig(clipping_update_period=5), 0.1)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoLooking():
        params[0].item()
    before = [p.detach().clone() for p in params]
    for update in range(12):
        set_gradients(params, update)
        with NoLooking():
            optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, params, strict=True) if new.any())


def test_a_gradient_that_is_too_large_to_square_moves_nothing():
    params = parameters(torch.float32)
    optimizer = ScaledAdam([{"params": params}], ScaledAdamConfig(), 0.1)
    for update in range(12):
        set_gradients(params, update)
        optimizer.step()
    before = [state["exp_avg_sq"].clone() for state in optimizer.state.values()]
    for p in params:
        p.grad = torch.full_like(p, 1e30)
    optimizer.step()
    for state, old in zip(optimizer.state.values(), before, strict=True):
        torch.testing.assert_close(state["exp_avg_sq"], 0.98 * old)
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": [0.9]}, "betas must be two numbers"),
        ({"eps": 0}, "eps must be positive"),
        ({"scalar_max": -1}, "scalar_max must be positive"),
        ({"param_max_rms": 1e-6}, "param_max_rms must be above param_min_rms"),
        ({"clipping_scale": -1}, "clipping_scale must not be negative"),
        ({"size_update_period": 0}, "size_update_period must be at least 1"),
        ({"clipping_update_period": 0}, "clipping_update_period must be at least 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ScaledAdamConfig(**settings)


def both_passes(device):
    """Updates by the kernels and in PyTorch must give the same numbers."""
    from toolkit.optim.scaled_adam_triton import Kernels

    results = {}
    for passes in (Stacks, Kernels):
        # The last one has its elements in another order in memory than its gradient.
        image = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(3))
        rows = [*parameters(torch.float32), image.to(memory_format=torch.channels_last)]
        rows = [nn.Parameter(p.detach().to(device)) for p in rows]
        optimizer = ScaledAdam([{"params": rows}], ScaledAdamConfig(), 0.05)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scaled_adam, "_passes", passes)
            for update in range(14):
                optimizer.param_groups[0]["lr"] = 0.05 if update else 0.0
                set_gradients(rows, update)
                if device == "cuda" and update:
                    # The first update has tables to make; from then on nothing may wait.
                    torch.cuda.set_sync_debug_mode("error")
                optimizer.step()
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        results[passes] = rows, optimizer.state_dict()["state"]
    (mine, states), (other, expected) = results[Kernels], results[Stacks]
    assert any(not torch.equal(*pair) for pair in zip(mine, other, strict=True)), "kernels were not used"
    for index, pair in enumerate(zip(mine, other, strict=True)):
        torch.testing.assert_close(*pair, atol=1e-6, rtol=1e-5)
        for name, value in expected[index].items():
            found = torch.as_tensor(states[index][name])
            torch.testing.assert_close(found, torch.as_tensor(value), atol=1e-4, rtol=1e-4)


def test_the_kernels_give_the_same_numbers(root):
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    pytest.importorskip("triton")
    code = "from tests.optim.test_scaled_adam import both_passes; both_passes('cpu')"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_the_kernels_compile_for_a_gpu():
    """To machine code, for which there need not be one; the interpreter lets more pass than the compiler does."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from toolkit.optim import scaled_adam_triton as kernels

    for kernel in (kernels._sum_chunks, kernels._sum_rows, kernels._move_chunks):
        integers = {"table", "rows", "starts", "sizes", "ends"}
        numbers = {"beta1", "beta2", "rest2", "eps", "scalar_max"}
        constants = {"CHUNK": kernels.CHUNK, "GATHERED": kernels.GATHERED, "GROWS": True, "FROZEN": False}
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        types = {name: "*i64" if name in integers else "*fp32" for name in kernel.arg_names}
        types |= {name: "fp32" for name in numbers & types.keys()}
        types |= {name: "i32" for name in {"count", "chunks"} & types.keys()}
        types |= dict.fromkeys(constants, "constexpr")
        options = {"num_warps": kernels.WARPS}
        built = compile(ASTSource(kernel, types, constants), GPUTarget("cuda", 90, 32), options)
        assert built.asm["cubin"]


@pytest.mark.gpu
def test_the_kernels_on_a_gpu():
    parameter = nn.Parameter(torch.zeros(3, device="cuda"))
    parameter.grad = torch.ones_like(parameter)
    optimizer = ScaledAdam([{"params": [parameter]}], ScaledAdamConfig(), 0.05)
    optimizer.step()
    assert type(optimizer.rows[0].passes).__name__ == "Kernels"
    both_passes("cuda")

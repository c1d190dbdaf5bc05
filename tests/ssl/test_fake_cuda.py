"""A pretraining step on a pretended GPU: tensors have sizes, types and devices, but no numbers to wait for.

PyTorch's own engine for gradients wants a GPU even for pretended tensors, so the graph is walked here.
"""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.models.test_invariance import FRONT, SMALL
from tests.train.test_objectives import CASES
from toolkit.config import build
from toolkit.optim.build import OptimConfig, build_optimizer
from toolkit.tasks.ssl import SslConfig, SslTask

aten = torch.ops.aten
TAKES_NUMBERS = {aten.div, aten.mul, aten.fill_}
"""What may be given a number on the CPU beside tensors on the GPU: it travels with the call, no copy is made."""
TRIED = [
    *(("hubert", encoder, "fbank") for encoder in SMALL),
    ("hubert", "transformer", "waveform"),
    *((objective, "conformer", "fbank") for objective in CASES if objective != "hubert"),
]


class Watch(TorchDispatchMode):
    """Refuses what copies between devices; what chance decides on the CPU happens."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = devices((args, kwargs))
        if func is aten._local_scalar_dense.default and found == {"cpu"}:
            return 0.01 if args[0].is_floating_point() else 0
        result = func(*args, **kwargs)
        assert len(found | devices(result)) < 2 or func.overloadpacket in TAKES_NUMBERS, f"{func} copies"
        return result


def devices(tree):
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}


def to_gpu(model, mode):
    """Parameters and registered buffers, and nothing else, pretended to be on a GPU."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            moved = mode.from_tensor(p).detach().to("cuda")
            setattr(module, name, nn.Parameter(moved, requires_grad=p.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer).to("cuda"))


@torch.no_grad()
def backward(loss):
    """Sets the gradients of all parameters that the loss depends on."""
    uses, reached, waiting = {}, {loss.grad_fn}, [loss.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            uses[node] = uses.get(node, 0) + 1
            if node not in {None} | reached:
                reached.add(node)
                waiting.append(node)
    grads, waiting = {loss.grad_fn: {0: torch.ones_like(loss)}}, [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        for (following, number), grad in edges(node, grads.pop(node, {})):
            if grad is not None:
                meta = following._input_metadata[number]
                assert grad.device == meta.device, f"{node.name()} leaves its device"
                # As PyTorch's engine does.
                grad, held = grad.sum_to_size(meta.shape).to(meta.dtype), grads.setdefault(following, {})
                held[number] = held[number] + grad if number in held else grad
            uses[following] -= 1
            if not uses[following]:
                waiting.append(following)


def edges(node, given):
    """Where gradients flow to from a node, and these gradients; None where there is none."""
    following = [edge for edge in node.next_functions if edge[0]]
    if hasattr(node, "variable"):
        node.variable.grad = given[0]
        return []
    if not given:
        return [(edge, None) for edge in following]
    if not hasattr(node, "needs_input_grad"):
        results = node(*(given.get(number) for number in range(len(node._input_metadata))))
        results = results if isinstance(results, tuple) else (results,)
        return [pair for pair in zip(node.next_functions, results, strict=True) if pair[0][0]]
    # A function written in Python, which is given zeros for what has no gradient.
    inputs = [
        given.get(number, torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device))
        for number, meta in enumerate(node._input_metadata)
    ]
    results = node.apply(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    wanted = [grad for grad, needed in zip(results, node.needs_input_grad, strict=True) if needed]
    return list(zip(following, wanted, strict=True))


@pytest.mark.parametrize(("objective", "encoder", "front"), TRIED)
def test_a_step_stays_on_the_gpu_and_waits_for_nothing(objective, encoder, front, monkeypatch):
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    changes = {"zipformer": {"output_downsampling": 1}, "transformer": {"layer_drop": 0.3}}.get(encoder, {})
    settings = {
        "speech": {
            "frontend": FRONT[front][0] | {"name": front},
            "encoder": SMALL[encoder][front][-1] | {"name": encoder} | changes,
        },
        "objective": CASES[objective] | ({"decoder_groups": 4} if objective == "data2vec" else {}),
    }
    model = SslTask(build(SslConfig, settings, "test"), Path(), 0).build_model().train()
    with FakeTensorMode() as mode:
        to_gpu(model, mode)
        optimizer = build_optimizer(model, OptimConfig(), lambda _: 1.0, lambda _: False)
        waveforms, lengths = torch.empty(2, 12000, device="cuda"), torch.full((2,), 9000, device="cuda")
        labels = torch.zeros(2, 37, 1, dtype=torch.int64, device="cuda")
        with Watch():
            model.set_update(0)
            with torch.autocast("cuda", torch.bfloat16):
                loss, stats, weight = model(waveforms, lengths, lengths, labels)
            backward(loss / weight)
            optimizer.step()
            model.objective.after_update(model.speech)
    assert devices((loss, stats, weight)) == {"cuda"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_what_waits_or_copies_is_found():
    with FakeTensorMode():
        x = torch.ones(3, device="cuda")
        with Watch():
            with pytest.raises(DataDependentOutputException):
                x[0].item()
            with pytest.raises(AssertionError, match="_to_copy.default copies"):
                torch.tensor([1.0], device="cuda")
            with pytest.raises(AssertionError, match="index.Tensor copies"):
                x[torch.tensor([0])]
            with pytest.raises(RuntimeError, match="devices"):
                x + torch.ones(3)

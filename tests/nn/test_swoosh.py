"""Swoosh activations: values, exact derivatives, and what is kept for backward."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit.nn.biasnorm import BiasNorm
from toolkit.nn.swoosh import SwooshLinear, swoosh_l, swoosh_r

DEFINITIONS = {
    "left": lambda x: torch.logaddexp(torch.zeros(()).to(x), x - 4) - 0.08 * x - 0.035,
    "right": lambda x: torch.logaddexp(torch.zeros(()).to(x), x - 1) - 0.08 * x - 0.313261687,
}
FUNCTIONS = {"left": swoosh_l, "right": swoosh_r}


@pytest.mark.parametrize("kind", ["left", "right"])
def test_values_and_derivatives(kind):
    x = torch.linspace(-30, 30, 1001, requires_grad=True)
    twin = x.detach().double().requires_grad_()
    y, expected = FUNCTIONS[kind](x), DEFINITIONS[kind](twin)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-6)
    (3 * y).sum().backward()
    (3 * expected).sum().backward()
    torch.testing.assert_close(x.grad.double(), twin.grad, atol=1e-5, rtol=1e-5)


def test_swoosh_r_is_zero_at_zero():
    assert abs(float(swoosh_r(torch.zeros(1)))) < 1e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["left", "right"])
def test_the_linear_layer_is_what_its_parts_are(kind, masked):
    torch.manual_seed(0)
    layer = SwooshLinear(6, 4, kind)
    x = (3 * torch.randn(2, 5, 6)).requires_grad_()
    keep = (torch.rand(2, 1, 6) > 0.3) / 0.7 if masked else None
    parameters = [x, layer.weight, layer.bias]
    active = DEFINITIONS[kind](x)
    expected = torch.nn.functional.linear(active * keep if masked else active, layer.weight, layer.bias)
    outer = torch.randn(2, 5, 4)
    wanted = torch.autograd.grad(expected, parameters, outer)
    found = layer(x, keep)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, parameters, outer), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("wanted", "products"), [("x", 1), ("weight", 1), ("bias", 0)])
def test_only_the_gradients_wanted_are_computed(wanted, products):
    layer, x = SwooshLinear(6, 4, "left"), torch.randn(3, 6)
    tensors = {"x": x, "weight": layer.weight, "bias": layer.bias}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name == wanted)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    # Forward is one product, too.
    assert counter.get_total_flops() == (1 + products) * 2 * 3 * 6 * 4
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [wanted]


def kept(function, *arguments):
    """The tensors that backward will need, but for parameters."""
    seen = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*arguments)
    return sorted(seen.values())


def test_little_is_kept():
    x = torch.randn(2, 50, 6, requires_grad=True)
    assert kept(swoosh_l, x) == [x.numel()]
    assert kept(SwooshLinear(6, 4, "left"), x) == [x.numel()]
    norm = BiasNorm(6).eval()
    assert kept(norm, x) == [100, x.numel()]


def test_bias_norm_in_double_precision():
    torch.manual_seed(0)
    norm = BiasNorm(5).eval()
    x = torch.randn(3, 4, 5, requires_grad=True)
    with torch.no_grad():
        norm.bias.normal_()
        norm.log_scale.fill_(0.3)
    parameters = [x, norm.bias, norm.log_scale]
    doubles = [parameter.detach().double().requires_grad_() for parameter in parameters]
    point, bias, log_scale = doubles
    expected = point * log_scale.exp() / (point - bias).square().mean(-1, keepdim=True).sqrt()
    found = norm(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    outer = torch.randn(3, 4, 5)
    wanted = torch.autograd.grad(expected, doubles, outer.double())
    for mine, theirs in zip(torch.autograd.grad(found, parameters, outer), wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", ["x", "bias", "log_scale"])
def test_a_frozen_tensor_leaves_the_other_gradients_of_the_norm(frozen):
    norm, x = BiasNorm(5).eval(), torch.randn(3, 5, requires_grad=True)
    tensors = {"x": x, "bias": norm.bias, "log_scale": norm.log_scale}
    expected = dict(zip(tensors, torch.autograd.grad(norm(x).sum(), list(tensors.values())), strict=True))
    tensors[frozen].requires_grad_(False)
    norm(x).sum().backward()
    for name, tensor in tensors.items():
        assert tensor.grad is None if name == frozen else torch.equal(tensor.grad, expected[name])


def test_a_second_derivative_is_refused_not_wrong():
    x = torch.randn(3, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(BiasNorm(6)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    assert x.grad is None


def test_a_frame_that_equals_the_bias_stays_finite():
    norm = BiasNorm(4)
    x = norm.bias.detach().clone()[None].requires_grad_()
    norm(x).sum().backward()
    assert x.grad.isfinite().all() and norm.bias.grad.isfinite().all()


@pytest.mark.parametrize("module", [SwooshLinear(6, 4, "right"), BiasNorm(6)], ids=["swoosh", "norm"])
def test_half_precision(module):
    x = torch.randn(2, 50, 6)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x.bfloat16().requires_grad_())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.05)
    y.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())

"""The Triton kernels of the transducer losses against loops and plain PyTorch: interpreted, compiled, on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from tests.losses.test_joiner import CASES, Case
from toolkit.losses.transducer import native
from toolkit.losses.transducer.config import TransducerLossConfig
from toolkit.losses.transducer.full import full_loss
from toolkit.losses.transducer.joiner import joiner_scores, joiner_scores_plain
from toolkit.losses.transducer.pruned import pruned_loss

ALL = [[0] * 7, [0] * 7, [0] * 7]
BAND = [[0, 0, 1, 3, 3, 4, 5], [0, 1, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6]]

# starts (B, T), R, frames, token_lengths: padding, no tokens, one frame, as many tokens as frames and more, no frames.
LATTICES = [
    (ALL, 5, [7, 3, 1], [4, 0, 2]),
    ([[0] * 3] * 2, 5, [3, 2], [4, 2]),
    (BAND, 3, [7, 4, 7], [7, 3, 8]),
    (BAND, 3, [7, 0, 7], [6, 0, 6]),
    ([[0], [0]], 4, [1, 1], [3, 0]),
]


def same_sums(device):
    """Of all lattices, with NaN where nothing may be read."""
    from toolkit.losses.transducer import triton_recursion

    torch.manual_seed(0)
    for starts, width, frames, token_lengths in LATTICES:
        starts, frames, token_lengths = map(torch.tensor, (starts, frames, token_lengths))
        lattice = starts, frames, token_lengths
        positions = starts[:, :, None] + torch.arange(width)
        outside = torch.arange(starts.shape[1])[:, None] >= frames[:, None, None]
        outside = outside | (positions > token_lengths[:, None, None])
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
            blank, target = (torch.randn(positions.shape, dtype=dtype) - 2 for _ in range(2))
            blank[outside] = torch.nan
            target[outside | (positions == token_lengths[:, None, None])] = torch.nan
            for diagonal in (False, True):
                expected = native.lattice(blank, target, *lattice, diagonal)
                moved = [tensor.to(device) for tensor in (blank, target, *lattice)]
                found = [x.cpu() for x in triton_recursion.lattice(*moved, diagonal)]
                torch.testing.assert_close(found, list(expected), rtol=tolerance, atol=tolerance)
    assert torch.isinf(expected[0]).tolist() == [True, False]


def wrong_numbers_are_passed_on(device):
    """A NaN where it counts is no alignment of probability 0."""
    from toolkit.losses.transducer import triton_recursion

    blank, target = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)
    blank[1, 1, 1] = torch.nan
    lattice = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 3]), torch.tensor([2, 2])
    total, _, _ = triton_recursion.lattice(*(x.to(device) for x in (blank, target, *lattice)), False)
    assert total.isnan().tolist() == [False, True]


def same_scores(device, half=False):
    """Of all cases, in one chunk and in many."""
    from toolkit.losses.transducer import triton_joiner

    tolerance = 3e-2 if half else 1e-5
    for chunk, names in ((60, ["padding"]), (2**23, CASES)):
        for name in names:
            case = Case(name, torch.float32, bias=name != "one frame")
            case.inputs = [x if x is None else x.detach().to(device).requires_grad_() for x in case.inputs]
            case.lattice = [x.to(device) for x in case.lattice]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(triton_joiner, "CHUNK", chunk)
                found = triton_joiner.triton_joiner_scores(*case.inputs, *case.lattice, half)
                grads = case.gradients(case.loss(*found, slice(None)).sum())
            expected = joiner_scores_plain(*case.inputs, *case.lattice)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
            expected = case.gradients(case.loss(*expected, slice(None)).sum())
            largest = max(float(x.abs().max()) for x in expected)
            torch.testing.assert_close(grads, expected, rtol=tolerance, atol=tolerance * max(1, largest))
    assert largest == 0  # The last case has no frames.


def same_scores_in_half(device):
    """In float16 and with products by PyTorch in float32: neither it on CPUs nor the interpreter has what GPUs have."""
    from toolkit.losses.transducer import triton_joiner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_joiner, "HALF", torch.float16)
        patch.setattr(triton_joiner, "_product", lambda a, b: a.float() @ b.float())
        same_scores(device, half=True)


def test_the_kernels_give_the_same_numbers(root):
    """In Triton's interpreter, which has to be chosen before Triton is imported."""
    pytest.importorskip("triton")
    calls = (
        "same_sums('cpu'); wrong_numbers_are_passed_on('cpu'); same_scores('cpu'); same_scores_in_half('cpu')"
    )
    code = f"from tests.losses.test_transducer_triton import *; {calls}"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def compiled(kernel, half, constants, warps):
    """Machine code for a Hopper GPU, of which there need not be one."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    long = {"tokens", "ranges", "frames", "token_lengths", "spans", "starts"}
    narrow = {"weight", "hidden", "grads"} if half else set()
    sizes = {*kernel.do_not_specialize, "num_units"}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {name: "*fp32" for name in kernel.arg_names}
    types |= {name: "*i64" for name in long & types.keys()}
    types |= {name: "*bf16" for name in narrow & types.keys()}
    types |= {name: "i32" for name in sizes & types.keys()}
    types |= dict.fromkeys(constants, "constexpr") | dict.fromkeys({"sums"} & types.keys(), "*fp64")
    pointers = [row for row, name in enumerate(kernel.arg_names) if types[name].startswith("*")]
    aligned = {(row,): [["tt.divisibility", 16]] for row in pointers}
    source = ASTSource(kernel, types, constants, aligned)
    return compile(source, GPUTarget("cuda", 90, 32), {"num_warps": warps}).asm


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("block", [8, 256])
def test_the_recursion_compiles_for_a_gpu(diagonal, block):
    pytest.importorskip("triton")
    from toolkit.losses.transducer import triton_recursion as kernels

    constants = {"DIAGONAL": diagonal, "BLOCK": block, "DOUBLE": False}
    for kernel in (kernels._sum, kernels._count):
        assert compiled(kernel, False, constants, 1 if block == 8 else 2)["cubin"]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_joiner_compiles_for_a_gpu(half):
    """With products in tensor cores."""
    pytest.importorskip("triton")
    from toolkit.losses.transducer import triton_joiner as kernels

    constants = {"J": 512, "V": 500, "PRECISION": "tf32x3", "WIDE": kernels.WIDE}
    constants |= {name: getattr(kernels, name) for name in ("ROWS", "SYMBOLS", "UNITS")}
    for kernel in (kernels._hidden, kernels._frame_gradients, kernels._position_gradients):
        assert compiled(kernel, half, constants, 4)["cubin"]
    for kernel in (kernels._normalise, kernels._logit_gradients):
        assert "wgmma.mma_async" in compiled(kernel, half, constants, 4)["ptx"]


@pytest.mark.gpu
def test_the_kernels_on_a_gpu():
    same_sums("cuda")
    wrong_numbers_are_passed_on("cuda")
    same_scores("cuda")
    same_scores("cuda", half=True)
    assert joiner_scores(*on_gpu(Case(dtype=torch.float64)))[0].dtype == torch.float64


def on_gpu(case):
    return [x if x is None else x.detach().cuda().requires_grad_() for x in case.inputs] + [
        x.cuda() for x in case.lattice
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("topology", ["regular", "modified", "constrained"])
@pytest.mark.parametrize("name", ["padding", "large"])
def test_losses_on_a_gpu_wait_for_nothing(topology, name):
    """And equal those on a CPU, in gradients, too."""
    large = (3, 200, 30, 5, 512, 500, [200, 150, 77], [30, 22, 9])
    case = Case(large if name == "large" else name, torch.float32)
    config = TransducerLossConfig(topology=topology, delay_penalty=0.1)
    tokens, ranges, *lengths = case.lattice
    if name == "large":
        with torch.no_grad():
            case.inputs[2] /= 20
    for loss, lattice in ((pruned_loss, [tokens, ranges, *lengths]), (full_loss, [tokens, *lengths])):
        expected = loss(*case.inputs, *lattice, config)
        grads = case.gradients(expected[expected.isfinite()].sum())
        inputs = [x.detach().cuda().requires_grad_() for x in case.inputs]
        moved = [x.cuda() for x in lattice]
        for _ in range(2):
            found = loss(*inputs, *moved, config)
            finite = found.isfinite()
            found_grads = torch.autograd.grad(torch.where(finite, found, 0).sum(), inputs)
            # The first round compiles; from then on nothing may wait.
            torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
        for mine, other in zip(found_grads, grads, strict=True):
            torch.testing.assert_close(mine.cpu(), other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))

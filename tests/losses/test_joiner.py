"""The joiner's scores without stored logits: against all logits in memory, and what is left out."""

import subprocess
import sys

import pytest
import torch

from toolkit.losses.transducer import joiner_tiles
from toolkit.losses.transducer.joiner import joiner_loss, joiner_scores, joiner_scores_plain
from toolkit.losses.transducer.threads import in_threads

# (B, T, U, R, J, V, frames, token_lengths): padding, an empty target, one frame, as many positions as there are.
CASES = {
    "padding": (3, 7, 4, 3, 6, 9, [7, 3, 1], [4, 0, 2]),
    "no tokens": (2, 3, 0, 1, 5, 4, [3, 2], [0, 0]),
    "one frame": (2, 1, 3, 4, 3, 7, [1, 1], [3, 1]),
    "nothing": (2, 2, 2, 2, 3, 4, [0, 0], [2, 1]),
}


class Case:
    """Random inputs; positions move from the first to the last ones over the frames."""

    def __init__(self, name="padding", dtype=torch.float64, bias=True):
        B, T, U, R, J, V, frames, token_lengths = CASES[name] if isinstance(name, str) else name
        generator = torch.Generator().manual_seed(0)
        make = {"generator": generator, "dtype": dtype}
        self.inputs = [
            torch.randn(B, T, J, **make).requires_grad_(),
            torch.randn(B, U + 1, J, **make).requires_grad_(),
            torch.randn(V, J, **make).requires_grad_(),
            torch.randn(V, **make).requires_grad_() if bias else None,
        ]
        starts = torch.arange(T) * max(U + 1 - R, 0) // max(T - 1, 1)
        ranges = (starts[:, None] + torch.arange(R)).expand(B, T, R)
        tokens = torch.randint(1, V, (B, U), generator=generator)
        self.lattice = (tokens, ranges, torch.tensor(frames), torch.tensor(token_lengths))
        self.weights = torch.randn(2, B, T, R, **make)

    def loss(self, blank, target, utterances):
        """Some function of the scores, not linear in them."""
        first, second = self.weights[:, utterances].to(blank)
        return (first * blank + second * target.square()).sum((1, 2))

    def gradients(self, outputs):
        return torch.autograd.grad(outputs, [x for x in self.inputs if x is not None])


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CASES)
def test_scores_and_gradients_equal_those_of_all_logits(name, bias):
    case = Case(name, bias=bias)
    mine = joiner_scores(*case.inputs, *case.lattice)
    plain = joiner_scores_plain(*case.inputs, *case.lattice)
    torch.testing.assert_close(mine, plain)
    results = [case.gradients(case.loss(*scores, slice(None)).sum()) for scores in (mine, plain)]
    torch.testing.assert_close(*results)
    assert name == "nothing" or all(grad.any() for grad in results[0])


def test_gradcheck():
    case = Case((2, 3, 2, 2, 3, 4, [3, 2], [2, 1]))

    def scores(*inputs):
        return joiner_scores(*inputs, *case.lattice)

    def loss(*inputs):
        return joiner_loss(*inputs, *case.lattice, case.loss)

    assert torch.autograd.gradcheck(scores, case.inputs)
    assert torch.autograd.gradcheck(loss, case.inputs)


@pytest.mark.parametrize("scale", [[1, 1, 1], [0.3, 0.3, 0.3], [1, 2, 0], [0, 0, 0]])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "computed again"])
@pytest.mark.parametrize("strip", [2, 1024])
def test_a_loss_with_gradients_made_at_once(scale, kept, strip, monkeypatch):
    monkeypatch.setattr(joiner_tiles, "STRIP", strip)
    monkeypatch.setattr(joiner_tiles, "KEPT", 2**20 if kept else 1)
    case, scale = Case(), torch.tensor(scale, dtype=torch.float64)
    mine = joiner_loss(*case.inputs, *case.lattice, case.loss)
    plain = case.loss(*joiner_scores_plain(*case.inputs, *case.lattice), slice(None))
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(case.gradients((mine * scale).sum()), case.gradients((plain * scale).sum()))


def test_what_an_utterance_without_a_path_weighs_does_not_matter(monkeypatch):
    """Its gradients are zeros, whatever they are multiplied by, so nothing is computed again."""
    case, seen = Case(), []

    def loss(blank, target, utterances):
        kept = torch.tensor([1.0, 0.0, 1.0])[utterances]
        return case.loss(blank, target, utterances) * kept

    result = joiner_loss(*case.inputs, *case.lattice, loss)
    compute = joiner_tiles.Activations.compute
    monkeypatch.setattr(joiner_tiles.Activations, "compute", lambda *args: seen.append(1) or compute(*args))
    uneven = case.gradients((result * torch.tensor([2.0, 0.0, 2.0])).sum())
    assert not seen
    even = case.gradients((2 * joiner_loss(*case.inputs, *case.lattice, loss)).sum())
    assert seen
    torch.testing.assert_close(uneven, even)


def test_large_scores_do_not_overflow():
    case = Case(dtype=torch.float32)
    with torch.no_grad():
        case.inputs[2] *= 1000
    mine, plain = (f(*case.inputs, *case.lattice) for f in (joiner_scores, joiner_scores_plain))
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    assert min(scores.min() for scores in mine) < -1000


def test_padding_is_never_read():
    case, spoilt = Case(), Case()
    with torch.no_grad():
        spoilt.inputs[0][1, 3:] = torch.nan
        spoilt.inputs[1][2, 3:] = torch.nan
    spoilt.lattice[0][2, 2:] = 8
    results = []
    for which in (case, spoilt):
        result = joiner_loss(*which.inputs, *which.lattice, which.loss)
        results.append((result, *which.gradients(result.sum())))
    torch.testing.assert_close(*results)
    assert all(x.isfinite().all() for x in results[1])


def test_nan_is_passed_on():
    case = Case(dtype=torch.float32)
    with torch.no_grad():
        case.inputs[0][0, 0, 0] = torch.nan
    result = joiner_loss(*case.inputs, *case.lattice, case.loss)
    assert result.isnan().tolist() == [True, False, False]
    assert case.gradients(result.sum())[2].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    case = Case(dtype=torch.float32)
    halves = [x.detach().to(dtype).requires_grad_() for x in case.inputs[:2]] + case.inputs[2:]
    with torch.autocast("cpu", torch.bfloat16):
        mine = joiner_loss(*halves, *case.lattice, case.loss)
    wide = [x.float() for x in halves]
    plain = case.loss(*joiner_scores_plain(*wide, *case.lattice), slice(None))
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, plain)
    grads = [torch.autograd.grad(x.sum(), halves) for x in (mine, plain)]
    torch.testing.assert_close(*grads)
    assert grads[0][0].dtype == dtype


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_none_are_computed(mode, monkeypatch):
    monkeypatch.delattr(joiner_tiles.Activations, "gradients")
    case = Case()
    with mode():
        mine = joiner_loss(*case.inputs, *case.lattice, case.loss)
        plain = case.loss(*joiner_scores_plain(*case.inputs, *case.lattice), slice(None))
    torch.testing.assert_close(mine, plain)
    assert not mine.requires_grad


def test_rows_that_change_nothing_are_left_out():
    """The error stays below what the rounding of one number of a sum in float32 makes."""
    case = Case((2, 50, 20, 5, 16, 11, [50, 40], [20, 15]), dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    # Occupancies as those of a trained model: of one position on each frame near 1, of others down to 1e-13.
    small = torch.logspace(-13, -6, 250).view(50, 5)
    occupancy = small[:, torch.randperm(5, generator=generator)].expand(2, 50, 5).clone()
    occupancy[:, :, 2] = 1.0
    rows = joiner_tiles.Rows.of(*case.lattice)
    sizes = occupancy.flatten()[rows.cell]
    left = joiner_tiles.noticed(rows.frame, sizes, torch.zeros_like(sizes))
    assert 0.2 < len(left) / len(sizes) < 0.6
    scores = joiner_scores(*case.inputs, *case.lattice)
    mine = torch.autograd.grad(scores, case.inputs, [occupancy, occupancy])
    wide = [x.detach().double().requires_grad_() for x in case.inputs]
    exact = joiner_scores_plain(*wide, *case.lattice)
    exact = torch.autograd.grad(exact, wide, [occupancy.double()] * 2)
    # Up to four rows of a frame are left out, each at most 2^-24 of the largest one's 2. They would have moved the
    # gradients of logits by twice that in sum of absolute values, and those of units by that times a weight.
    largest = case.inputs[2].detach().abs().max()
    left_out = 4 * 2 * 2 * 2.0**-24 * largest
    rounding = 16 * torch.finfo(torch.float32).eps * largest
    assert (mine[0] - exact[0]).abs().max() < left_out + rounding
    for found, expected in zip(mine, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-5)


def test_rows_without_gradient_are_not_computed(monkeypatch):
    case, counts = Case(), []
    blank, target = joiner_scores(*case.inputs, *case.lattice)
    compute = joiner_tiles.Activations.compute
    monkeypatch.setattr(
        joiner_tiles.Activations,
        "compute",
        lambda self, rows: counts.append(len(rows.cell)) or compute(self, rows),
    )
    case.gradients(blank[0, 2:4].sum())
    assert sum(counts) == 6


def test_memory_does_not_hold_all_logits(monkeypatch):
    """The largest tensor that is made has a strip of rows, where the batch has 40 times as many."""
    case = Case((4, 40, 25, 26, 8, 300, [40] * 4, [25] * 4), dtype=torch.float32)
    monkeypatch.setattr(joiner_tiles, "STRIP", 100)
    monkeypatch.setattr(joiner_tiles, "KEPT", 1)
    buffers, compute = [], joiner_tiles.Activations.compute

    def watched(self, rows):
        compute(self, rows)
        buffers.append(self.log_probs.untyped_storage().nbytes() // 4)

    monkeypatch.setattr(joiner_tiles.Activations, "compute", watched)
    case.gradients(joiner_loss(*case.inputs, *case.lattice, case.loss).sum())
    assert max(buffers) <= 100 * 300 < case.weights[0].numel() * 300 / 40


def test_the_same_bits_every_time():
    """Threads are done in any order and touch nothing of each other, and their sums are added in one order."""
    case = Case((5, 300, 9, 4, 16, 30, [300, 200, 250, 90, 299], [9, 8, 0, 5, 7]), dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results = [
            case.gradients(joiner_loss(*case.inputs, *case.lattice, case.loss).sum()) for _ in range(60)
        ]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


def test_shares():
    """Of nearly equal size; no more threads than are worth it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert in_threads(sorted, [300, 800, 200, 400]) == [[1], [0, 2, 3]]
        assert in_threads(sorted, [1, 8, 2, 4]) == [[0, 1, 2, 3]]
        assert in_threads(lambda _: torch.get_num_threads(), [300, 300]) == [1, 1]
        assert in_threads(lambda _: torch.is_grad_enabled(), [300, 300]) == [False, False]
        assert in_threads(sorted, []) == [[]]
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda share: 1 / share[0], [300, 300])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_after_a_fork():
    """Threads do not live on in a forked process; new ones begin there."""
    code = """
import os, torch
from toolkit.losses.transducer.threads import in_threads
torch.set_num_threads(2)
assert in_threads(sorted, [300, 300]) == [[0], [1]]
child = os.fork()
if not child:
    assert in_threads(sorted, [300, 300]) == [[0], [1]]
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert run.stdout == "7\n", run.stderr

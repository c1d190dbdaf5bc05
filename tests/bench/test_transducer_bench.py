"""The transducer losses that are measured: programs compute the same, rows say what they should."""

from importlib.util import find_spec

import pytest
import torch

from toolkit.bench import transducer
from toolkit.bench.table import show
from toolkit.bench.transducer import LOSSES, SHAPES, Inputs, compare, find_peers, least_flops
from toolkit.bin import bench
from toolkit.errors import UserError


@pytest.fixture
def tiny(monkeypatch):
    """A batch of another shape, and the inputs for it."""
    monkeypatch.setitem(SHAPES, "tiny", lambda: (torch.tensor([9, 6]), torch.tensor([6, 3])))
    monkeypatch.setattr(transducer, "VOCABULARY", 11)
    monkeypatch.setattr(transducer, "JOINER", 8)
    return Inputs.random("tiny", "cpu")


@pytest.mark.parametrize("loss", LOSSES)
def test_programs_compute_the_same(loss, tiny):
    found = {}
    for program in LOSSES[loss]:
        if program == "toolkit" or program in find_peers(None):
            value = LOSSES[loss][program](tiny)
            used = [x for x in vars(tiny).values() if x.requires_grad]
            grads = torch.autograd.grad(value, used, allow_unused=True, materialize_grads=True)
            found[program] = value.reshape(()), grads
    for value in found.values():
        torch.testing.assert_close(value, found["toolkit"], rtol=1e-4, atol=1e-4)
    assert len(found) > 1 or loss == "recursion"
    assert any(grad.any() for grad in found["toolkit"][1])


def test_shapes():
    frames, token_lengths = SHAPES["unsorted"]()
    assert len(frames) == 30 and 37 <= frames.min() < 250 < frames.max() <= 612
    assert 0.12 < float(token_lengths.sum() / frames.sum()) < 0.14
    frames, _ = SHAPES["sorted"]()
    assert 9_500 < len(frames) * frames.max() <= 10_000
    assert frames.min() > 0.9 * frames.max()


def test_the_least_that_has_to_be_multiplied(tiny):
    assert least_flops("pruned", "small") == 3 * 2 * 8 * 250 * 5 * 11 * 8
    assert least_flops("full", "tiny") == 3 * 2 * (9 * 7 + 6 * 4) * 11 * 8
    assert least_flops("pruned", "tiny") == 3 * 2 * (9 * 5 + 6 * 4) * 11 * 8
    assert least_flops("recursion", "small") == 0


def test_rows_of_a_comparison():
    rows = ours, theirs = compare(["pruned"], ["small"], ["pytorch"], "cpu", steps=1, threads=1)
    assert [(row["loss"], row["shape"], row["system"]) for row in rows] == [
        ("pruned", "small", "toolkit"),
        ("pruned", "small", "pytorch"),
    ]
    for row in (ours, theirs):
        assert row["step"] == pytest.approx(row["forward"] + row["backward"])
        assert row["floor_ratio"] > 0.5
        assert row["step_ratio"] == row["step"] / theirs["step"]
    # Of logits, 20 MiB, theirs has several, ours none.
    assert theirs["above_inputs"] > 60 * 2**20 > ours["above_inputs"]
    assert "| memory above the inputs | time / floor |" in show(rows)


def test_what_cannot_be_measured():
    for arguments, message in {
        "--peers warp": "--peers: found 'warp', expected one of: fast_rnnt, k2, torchaudio, pytorch",
        "--steps 0": "--steps, --threads: found a number below 1, expected 1 or more",
        "--section.key=1": "found --section.key=1, expected no settings for transducer",
    }.items():
        with pytest.raises(UserError, match=message):
            bench.main(["transducer", *arguments.split()])
    for name in {"fast_rnnt", "k2"} - set(find_peers(None)):
        assert find_spec(name) is None
        with pytest.raises(UserError, match=f"--peers: {name} is not installed"):
            find_peers([name])

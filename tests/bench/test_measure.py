"""Clocks, counters, and systems in processes of their own."""

import os
import time
from functools import partial

import pytest
import torch

from toolkit.bench.measure import PeakMemory, Remote, Stopwatch, count_flops, peak_flops
from toolkit.bench.table import show
from toolkit.errors import UserError

CPU = torch.device("cpu")


class Sleeper:
    """Takes its time, and memory."""

    seconds, num_parameters = 3.0, 7

    def __init__(self, naps, dies=False):
        self.naps, self.dies, self.steps = naps, dies, 0

    def step(self, watch):
        self.steps += 1
        if self.dies and self.steps > 2:
            os._exit(1)
        held = torch.ones(2**24 // 4)
        for name, nap in self.naps.items():
            time.sleep(nap)
            watch.done(name)
        held @ held


def refuses():
    raise UserError("no such model")


def test_parts_of_a_step():
    watch = Stopwatch(CPU)
    Sleeper({"forward": 0.02, "backward": 0.04}).step(watch)
    parts = watch.parts()
    assert list(parts) == ["forward", "backward"]
    assert 0.02 <= parts["forward"] and 0.04 <= parts["backward"] < 1


def test_memory_is_what_was_taken_since():
    kept = torch.ones(2**25 // 4)
    memory = PeakMemory(CPU)
    taken = torch.ones(2**26 // 4)
    del taken
    assert kept.sum() == 2**23
    # The system counts pages in lots.
    assert abs(memory.peak() - 2**26) < 2**22


def test_operations_of_products_convolutions_and_attention():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert count_flops(lambda: torch.zeros(3, 7).addmm_(a, b)) == 2 * 3 * 5 * 7
    assert count_flops(lambda: torch.zeros(1, 3, 7).baddbmm_(a[None], b[None])) == 2 * 3 * 5 * 7
    conv, x = torch.nn.Conv1d(4, 6, 3), torch.randn(2, 4, 10)
    with torch.no_grad():
        assert count_flops(lambda: conv(x)) == 2 * 2 * 6 * 4 * 3 * 8
    q = torch.randn(1, 2, 9, 8, requires_grad=True)
    forward = 2 * 2 * 2 * 9 * 9 * 8
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(q, q, q)) == forward
    assert count_flops(lambda: attend(q, q, q).sum().backward()) == forward + 2.5 * forward


def test_the_most_that_the_machine_can_do():
    assert 1e8 < peak_flops(CPU, torch.float32) < 1e15


def test_a_system_in_a_process_of_its_own():
    remote = Remote("sleeper", partial(Sleeper, {"forward": 0.01}), "cpu", 1)
    assert remote.facts["seconds"] == 3.0 and remote.facts["num_parameters"] == 7
    assert remote.step()["forward"] >= 0.01
    assert remote.finish()["memory"] > 2**23


def test_what_goes_wrong_in_a_process():
    with pytest.raises(UserError, match="no such model"):
        Remote("refuses", refuses, "cpu", 1)
    remote = Remote("dies", partial(Sleeper, {}, dies=True), "cpu", 1)
    with pytest.raises(UserError, match="dies: its process died"):
        remote.step()


def test_a_table():
    rows = [{"system": "a", "parameters": 2_500_000, "step": 0.5, "memory": 2**30, "utilisation": 0.25}]
    assert show(rows).splitlines() == [
        "| system | parameters | step | peak memory | utilisation |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a | 2.50 M | 0.500 s | 1.00 GiB | 25% |",
    ]

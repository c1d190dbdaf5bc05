"""Clocks, counters of memory and arithmetic, and processes that are measured in turns.

What is to be compared runs in processes of its own, one step of each in turn, so that whatever else happens on the
machine meets all alike, and one's memory is not another's.
"""

import ctypes
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from toolkit.errors import UserError
from toolkit.processes import die_with_parent


class System(Protocol):
    """Something that is measured step by step."""

    seconds: float
    """Of audio in a step, padding not counted."""
    num_parameters: int
    """Of the model."""

    def step(self, watch: "Stopwatch") -> None:
        """One step; tells the watch when a part of it is done."""


class Stopwatch:
    """Seconds of the parts of a step; on a GPU by events in its stream, so that nothing is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.names: list[str] = []
        self.times: list[Any] = []
        self._now("start")

    def done(self, name: str) -> None:
        """What ran since the last call was `name`."""
        self._now(name)

    def parts(self) -> dict[str, float]:
        """Seconds of each part."""
        if self.on_gpu:
            torch.cuda.synchronize()
        pairs = zip(self.times, self.times[1:], strict=False)
        spans = [a.elapsed_time(b) / 1000 if self.on_gpu else b - a for a, b in pairs]
        return dict(zip(self.names[1:], spans, strict=True))

    def _now(self, name: str) -> None:
        self.names.append(name)
        if self.on_gpu:
            self.times.append(torch.cuda.Event(enable_timing=True))
            self.times[-1].record()
        else:
            self.times.append(time.perf_counter())


class PeakMemory:
    """Bytes that a process took beyond what it had when this was made: of the GPU, or resident in memory.

    What was freed before is given back to the system first, so that it counts when it is used again.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # Begins a new peak.
            self.before = _resident("VmRSS")

    def peak(self) -> int:
        """The most until now."""
        return (torch.cuda.max_memory_allocated() if self.on_gpu else _resident("VmHWM")) - self.before


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise UserError("bench: found no /proc/self/status with memory in it, expected Linux or --device cuda")


def count_flops(run: Callable[[], None]) -> int:
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add counts as two."""
    aten = torch.ops.aten
    uncounted = {
        aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
        aten.baddbmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * a[2] * b[2],
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **_: sdpa_flop_count(
            q, k, v
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *rest, **_: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counter:
        run()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of five: what the machine can do at most."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):  # The first one warms up.
        watch = Stopwatch(device)
        a @ b
        watch.done("product")
        best = min(best, watch.parts()["product"])
    return 2 * size**3 / best


def current(device: str) -> torch.device:
    """The device of that name, which streams and counters of memory then mean, too."""
    found = torch.zeros(1, device=device).device
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found


class Remote:
    """A system in a process of its own.

    Args:
        build: makes the system; pickled, so a function of a module (or a partial of one).
        device: where it computes.
        threads: CPU threads of the process.
        above_inputs: memory counts from the end of the first steps on, so without inputs and libraries.

    Raises:
        UserError: the process died, or building raised one.
    """

    def __init__(
        self, name: str, build: Callable[[], System], device: str, threads: int, above_inputs: bool = False
    ) -> None:
        self.name = name
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, build, device, threads, above_inputs, os.getpid()), daemon=True
        )
        self.process.start()
        theirs.close()
        self.facts: dict[str, Any] = self._receive()
        """seconds, num_parameters, flops of a step, and what else `_serve` measures once."""

    def step(self) -> dict[str, float]:
        """Seconds of the parts of one step."""
        self.pipe.send("step")
        return self._receive()

    def finish(self) -> dict[str, float]:
        """Peak memory in bytes; ends the process."""
        self.pipe.send("finish")
        found = self._receive()
        self.process.join()
        return found

    def _receive(self) -> Any:
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise UserError(f"{self.name}: its process died, perhaps for want of memory; try less") from None
        if isinstance(answer, UserError):
            raise answer
        return answer


def _serve(
    pipe: Connection,
    build: Callable[[], System],
    device: str,
    threads: int,
    above_inputs: bool,
    parent: int,
) -> None:
    die_with_parent(parent)
    torch.set_num_threads(threads)
    where = current(device)
    memory = PeakMemory(where)
    try:
        system = build()
    except UserError as error:
        pipe.send(error)
        return
    system.step(Stopwatch(where))  # The first step allocates, and compiles.
    flops = count_flops(lambda: system.step(Stopwatch(where)))
    pipe.send({"seconds": system.seconds, "num_parameters": system.num_parameters, "flops": flops})
    if above_inputs:
        memory = PeakMemory(where)
    while pipe.recv() == "step":
        watch = Stopwatch(where)
        system.step(watch)
        pipe.send(watch.parts())
    pipe.send({"memory": memory.peak()})

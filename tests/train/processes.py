"""Runs of the train command as processes of their own, to be killed and started again."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEBUG = ROOT / "egs/mini/conf/debug.yaml"

# The debug recipe made short: many checkpoints in few updates, and fewer validation batches than processes.
SHORT = [
    "--data.train=synthetic:24",
    "--data.valid=synthetic:1",
    "--data.sampler.max_duration=8",
    "--train.checkpoint_every=3",
    "--train.valid_every=6",
    "--train.log_every=2",
]
TIMING = {"audio_per_second", "elapsed"}
PATIENCE = 300


def command(folder: Path, settings: list[str], processes: int = 1) -> list[str]:
    """The command line of a run."""
    run = [sys.executable, "-m", "toolkit.bin.train"]
    if processes > 1:
        # A free port for each run, as others may be running on this machine.
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        run = [*torchrun, f"--nproc-per-node={processes}", "-m", "toolkit.bin.train"]
    return [*run, "--config", str(DEBUG), "--exp", str(folder), *settings]


def start(folder: Path, settings: list[str], processes: int = 1) -> subprocess.Popen:
    """Starts a run, as the leader of a group of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder / "output.txt", "a") as output:
        return subprocess.Popen(
            command(folder, settings, processes),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def finish(folder: Path, settings: list[str], processes: int = 1) -> None:
    """Runs to the end, which must be good."""
    assert start(folder, settings, processes).wait(PATIENCE) == 0, (folder / "output.txt").read_text()


def weights(folder: Path) -> bytes:
    """The bytes of the trained model."""
    return (folder / "model" / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, without what depends on the clock."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits until something is so, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "nothing happened for minutes"
        time.sleep(0.0005)


def kill_at_a_random_moment(
    process: subprocess.Popen, folder: Path, rng: random.Random, lifetime: float
) -> bool:
    """Kills a run with all its processes; False if it had ended before.

    A third of the moments lies anywhere in the run's life, a third just after something was written to the experiment
    and a third within the writing of a checkpoint.
    """
    kind = rng.choice(["any", "progress", "writing"])
    if kind == "any":
        until = time.monotonic() + rng.uniform(0, lifetime)
        wait_until(lambda: time.monotonic() > until, process)
    elif kind == "progress":
        files = [
            folder / "metrics.jsonl",
            *(folder / name for name in ("checkpoints", "model", "config.yaml")),
        ]
        before = stamps(files)
        wait_until(lambda: stamps(files) != before, process)
        time.sleep(rng.uniform(0, 0.2))
    else:
        wait_until(lambda: any((folder / "checkpoints").glob(".*.tmp")), process)
        time.sleep(rng.uniform(0, 0.003))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def stamps(files: list[Path]) -> list[int]:
    """When each file was changed; 0 for those that are not there."""
    return [stamp(path) for path in files]


def stamp(path: Path) -> int:
    """When a file was changed; 0 if it is not there, which asking beforehand could not tell of a file in use."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def run_with_kills(
    folder: Path,
    settings: list[str],
    kills: int,
    reference: Path,
    lifetime: float,
    processes: int = 1,
    seed: int = 0,
) -> list[str]:
    """Kills a run again and again; in what it differed from the reference each time that it reached its end."""
    rng, killed, found = random.Random(seed), 0, []
    while killed < kills:
        process = start(folder, settings, processes)
        if kill_at_a_random_moment(process, folder, rng, lifetime):
            killed += 1
        else:
            found += flaws(process, folder, reference)
            shutil.rmtree(folder)
    return found + flaws(start(folder, settings, processes), folder, reference)


def flaws(process: subprocess.Popen, folder: Path, reference: Path) -> list[str]:
    """Waits for a run's end; in what it differs from the reference."""
    if code := process.wait(PATIENCE):
        return [f"exit {code}: {(folder / 'output.txt').read_text()}"]
    found = [kind.__name__ for kind in (weights, metrics) if kind(folder) != kind(reference)]
    if (folder / "config.yaml").read_bytes() != (reference / "config.yaml").read_bytes():
        found.append("config.yaml")
    return found

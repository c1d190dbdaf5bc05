"""What only a process of its own shows: exit codes, standard error as it is, signals, limits of the system."""

import argparse
import os
import resource
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import Desk, Fault, Result, copy_of, flaws
from toolkit.bin import run

WAV = "audio/synthetic-0-0001.flac"
WER = "score wer --ref ref --hyp"
LABEL = "label --cuts cuts.jsonl.gz --out new"


def start(command: str, **options: object) -> subprocess.Popen:
    """Starts a command in a process of its own."""
    arguments = [sys.executable, "-m", *f"toolkit.bin.{command}".split()]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(arguments, **{**streams, **options})


def result_of(process: subprocess.Popen) -> Result:
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


FAULTS = [
    Fault("text", f"{WER} gone", "gone: No such file or directory, expected a readable text file"),
    Fault(
        "settings", "train --config asr.yaml --exp new --optim.lrr=1", "unknown key optim.lrr; nearest valid"
    ),
    Fault(
        "data", "train --config ssl.yaml --exp new --objective.num_classes=3", "num_classes: found 3, but cut"
    ),
    Fault("model", f"decode --model m {WAV}", "damaged", {"m": copy_of("asr", {"model.safetensors": b""})}),
    Fault(
        "model of several jobs",
        f"{LABEL} --kmeans layer_codebook --model gone --jobs 2",
        "gone/.*: no such file",
    ),
    Fault("option", "embed --model", "argument --model: expected one argument"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_one_line_and_exit_code_2(fault: Fault, desk: Desk) -> None:
    desk.put(fault.files)
    assert not flaws(result_of(start(fault.command)), fault)


def test_standard_output_is_full(desk: Desk) -> None:
    with open("/dev/full", "w") as full:
        result = result_of(start(f"{WER} hyp", stdout=full))
    assert not flaws(result, Fault("full", WER, "No space left on device"))


def test_nobody_reads_standard_output(desk: Desk) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = result_of(start(f"{WER} hyp", stdout=writing))
    os.close(writing)
    assert result.code == 141 and not result.err


def test_terminal_that_cannot_show_a_word(desk: Desk) -> None:
    desk.put({"x": "a the cat sæt\nb hello\n"})
    result = result_of(start(f"{WER} x", env={**os.environ, "PYTHONIOENCODING": "ascii"}))
    assert not flaws(result, Fault("ASCII", WER, "not UTF-8|can't encode"))


def test_interrupt(desk: Desk) -> None:
    os.mkfifo("x")
    # A shell that starts this in the background has it ignore the signal, and children inherit that.
    process = start(f"{WER} x", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    # Opening the other end waits until the command reads.
    with open("x", "w"):
        process.send_signal(signal.SIGINT)
        result = result_of(process)
    assert result.code == 130 and result.err == "interrupted\n"


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("train", True),
        ("train --restart", False),
        ("label", True),
        ("decode", False),
        ("embed", False),
        ("diarize", False),
        ("kmeans", False),
        ("verify", False),
    ],
)
def test_only_what_goes_on_says_so(
    command: str, goes_on: bool, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for method in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, method, interrupt)
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(root / f"toolkit/bin/{command.split()[0]}.py"), run_name="__main__")
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said == "interrupted" + ("; the same command goes on from here" if goes_on else "") + "\n"


def test_file_larger_than_allowed(desk: Desk) -> None:
    """A limit of the system takes the place of a disk that fills up within a file."""
    (desk.folder / "out").mkdir()
    command = "average --exp exp/asr --output out"
    limit = 8192
    process = start(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert not flaws(result_of(process), Fault("limit", command, "out/model.safetensors: File too large"))
    assert not (desk.folder / "out/model.safetensors").exists()
    assert not list((desk.folder / "out").glob(".*.tmp"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("can't allocate memory: 2 GiB"),
    ],
    ids=["Python", "GPU", "PyTorch"],
)
def test_lack_of_memory(error: BaseException, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr("toolkit.bin.score.main", main)
    assert not flaws(desk.run(f"{WER} hyp"), Fault("memory", WER, "out of memory; compute less at once"))


def test_an_error_of_the_program_shows_where() -> None:
    """What is no fault of the user keeps its traceback."""

    def main() -> None:
        raise RuntimeError("impossible")

    with pytest.raises(RuntimeError, match="impossible"):
        run(main)

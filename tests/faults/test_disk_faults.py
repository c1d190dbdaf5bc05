"""A full disk: one line that says so, nothing that was there is lost, and the same command goes on afterwards."""

import errno
import os
from pathlib import Path

import pytest

from tests.faults.harness import Desk, Fault, audio, closed_folder, flaws, folder

# Command -> a file that it makes in out/.
WRITERS = {
    "train --config asr.yaml --exp out": "model/model.safetensors",
    "label --cuts cuts.jsonl.gz --kmeans codebook --out out --shard-size 3": "cuts.jsonl.gz",
    "kmeans --cuts cuts.jsonl.gz --out out/codebook --clusters 4": "codebook",
    "embed --cuts cuts.jsonl.gz --model speaker --output out/embeddings": "embeddings",
    "decode --cuts cuts.jsonl.gz --model asr --out out": "words.ctm",
    "diarize --cuts cuts.jsonl.gz --model diarization --speaker-model speaker --output out/turns": "turns",
    "verify --trials trials --embeddings embeddings --output out/scores": "scores",
    "average --exp exp/asr --output out": "model.safetensors",
    "score wer --ref ref --hyp hyp --json out/wer.json --details out/wer.txt": "wer.txt",
    "score eer --trials trials --scores scores --json out/eer.json": "eer.json",
    "quality --labels frame_labels/cuts.jsonl.gz --json out/quality.json": "quality.json",
    "report --exp exp/asr --out out/report.html --table out/table.md": "table.md",
    "prepare folder in out": "cuts_train.jsonl.gz",
    "prepare validate cuts.jsonl.gz --out out/good.jsonl.gz": "good.jsonl.gz",
    "prepare split cuts.jsonl.gz out": "cuts_train.jsonl.gz",
}


class Disk:
    """Stands for os.fsync and fails once so many files were written."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, _: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", WRITERS)
def test_full_disk(command: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for no file, then for one, and so on, until the command gets done."""
    made = desk.folder / "out" / WRITERS[command]
    desk.put({"in/a.wav": audio(), "in/b.wav": audio(rate=8000)})
    desk.works(command)
    whole = made.read_bytes()
    (desk.folder / "out").rename(desk.folder / "whole")
    complaint = r"out/.*: No space left on device; free some space and start again, finished work is kept"
    for room in range(30):
        monkeypatch.setattr(os, "fsync", Disk(room))
        result = desk.run(command)
        if result.code == 0:
            break
        assert not flaws(result, Fault("full disk", command, complaint))
        assert not list((desk.folder / "out").rglob(".*.tmp"))
        assert not made.exists() or made.read_bytes() == whole
    assert room >= 1 and result.code == 0
    assert made.read_bytes() == whole


def test_full_disk_keeps_checkpoints(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on from the checkpoint before the disk was full."""
    command = "train --config asr.yaml --exp out"
    for room in range(9):
        monkeypatch.setattr(os, "fsync", Disk(room))
        result = desk.run(f"{command} --restart")
        if "step-00000002.safetensors" in result.err:
            break
    assert "out/checkpoints/step-00000002.safetensors: No space left on device" in result.err
    assert [path.name for path in Path("out/checkpoints").iterdir()] == ["step-00000001.safetensors"]
    monkeypatch.setattr(os, "fsync", Disk(99))
    assert "going on from out/checkpoints/step-00000001.safetensors" in desk.works(command).out


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("ref/wer.json", "ref: (File exists|Not a directory)"),
        ("in", "in: Is a directory"),
        ("x" * 300, "x+: File name too long"),
    ],
    ids=["file for a folder", "folder for a file", "name too long"],
)
def test_output_that_cannot_be(output: str, complaint: str, desk: Desk) -> None:
    desk.put({"in": folder})
    assert not desk.flaws(Fault("output", f"score wer --ref ref --hyp hyp --json {output}", complaint))


def test_output_without_permission(desk: Desk) -> None:
    desk.put({"closed": closed_folder})
    command = "score wer --ref ref --hyp hyp --json closed/wer.json"
    assert not desk.flaws(Fault("closed folder", command, "closed/.*: Permission denied"))

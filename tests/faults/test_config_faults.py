"""Bad settings: YAML, overrides, and settings that do not fit the data or an earlier run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import harness
from tests.faults.harness import Desk, Fault, manifest


def refused(name: str, content: harness.Content, expect: str) -> Fault:
    """A row for a bad x.yaml."""
    return Fault(name, "train --config x.yaml --exp new", "x.yaml" + expect, {"x.yaml": content})


def overridden(name: str, override: str, expect: str, task: str = "asr", **files: harness.Content) -> Fault:
    """A row for good YAML and a bad setting; files are manifests x.jsonl, ..."""
    named = {f"{key}.jsonl": content for key, content in files.items()}
    return Fault(name, f"train --config {task}.yaml --exp new {override}", expect, named)


def each_supervision(**values: Any) -> Callable[[Path], None]:
    return manifest(lambda rows: [row["supervisions"][0].update(values) for row in rows])


def labels_with(**values: Any) -> Callable[[Path], None]:
    return manifest(lambda rows: [row["custom"]["labels"].update(values) for row in rows])


def without_label_files(rows: list[dict]) -> None:
    for row in rows:
        row["custom"]["labels"]["array"].update(storage_path="gone")


FAULTS = [
    refused("YAML missing", harness.nothing, ": no such file"),
    refused("YAML is a folder", harness.folder, ": Is a directory"),
    refused("YAML without permission", harness.unreadable, ": Permission denied"),
    refused("YAML is no text", b"\x80\x81\x82", ": not a text file, expected YAML"),
    refused("YAML with control characters", "task: \x07\n", ": not a text file, expected YAML"),
    refused(
        "tab for indentation", "task: asr\ndata:\n\ttrain: a\n", r":3: not YAML \(.*cannot start any token"
    ),
    refused("bracket left open", "task: asr\ndata: {train: a\nseed: 1\n", r":\d: not YAML"),
    refused("YAML with an object of Python", "task: !!python/name:os.system\n", ":1: not YAML"),
    refused("YAML nested without end", "[" * 5_000, ": nested too deeply"),
    refused("list at the top", "- task: asr\n", ": found list at the top, expected a mapping"),
    refused("sentence at the top", "train a model\n", ": found str at the top, expected a mapping"),
    refused("empty YAML", "", ": task: found None, expected one of: ssl, asr, speaker, diarization"),
    refused("unknown task", "task: asrr\n", ": task: found 'asrr', expected one of: ssl, asr"),
    refused("list for a task", "task: [asr, ssl]\n", r": task: found \['asr', 'ssl'\], expected one of"),
    refused("unknown key", "task: asr\nsede: 1\n", ": unknown key sede; nearest valid: seed"),
    refused(
        "unknown inner key",
        "task: asr\noptim: {lrr: 1}\n",
        ": unknown key optim.lrr; nearest valid: optim.lr",
    ),
    refused("key that is no string", "task: asr\n1: 2\n", ": unknown key 1; expected one of: task, seed"),
    refused("value for a section", "task: asr\noptim: 5\n", ": optim: found 5, expected a section"),
    refused("list for a section", "task: asr\ndata: [a]\n", r": data: found \['a'\], expected a section"),
    refused("null for a value", "task: asr\nseed: null\n", ": seed: found None, expected int"),
    refused(
        "unknown encoder",
        "task: asr\nspeech: {encoder: {name: conformr}}\n",
        ": speech.encoder.name: found 'conformr'; nearest valid: conformer",
    ),
    overridden("word for a number", "--seed=much", "asr.yaml: seed: found 'much', expected int"),
    overridden(
        "number out of range", "--train.max_updates=0", "asr.yaml: train: max_updates must be at least 1"
    ),
    overridden(
        "value not among the choices", "--train.precision=int8", "train.precision: found 'int8', expected one"
    ),
    overridden("override without =", "--seed", "command line: found '--seed', expected --key.subkey=value"),
    overridden(
        "override with a space", "--seed 5", "command line: found '--seed', expected --key.subkey=value"
    ),
    overridden(
        "override without dashes", "seed=5", "command line: found 'seed=5', expected --key.subkey=value"
    ),
    overridden(
        "override of an unknown key", "--optim.lrr=1", "unknown key optim.lrr; nearest valid: optim.lr"
    ),
    overridden("override of a section with a value", "--optim=5", "optim: found 5, expected a section"),
    overridden("override inside a value", "--train.threads.x=1", "threads.x: threads holds a value, not a"),
    Fault("no experiment folder", "train --config asr.yaml", "command line: --exp: found nothing, expected"),
    Fault("file for an experiment folder", "train --config asr.yaml --exp ref", "ref: File exists"),
    overridden("no training data", "--data.train=", "data.train: found nothing, expected a cuts manifest"),
    overridden(
        "synthetic data without a number", "--data.train=synthetic:x", "data.train: found 'synthetic:x'"
    ),
    overridden(
        "all cuts too long",
        "--data.sampler.max_seconds=0.2",
        "cuts.jsonl.gz: found no cut that is 0.1 to 0.2",
    ),
    overridden("pretrained model missing", "--init.model=gone", "gone/model.safetensors: no such file"),
    overridden("pretrained model is a file", "--init.model=ref", "ref/model.safetensors: no such file"),
    overridden(
        "pretrained encoder of another size",
        "--init.model=ssl --speech.encoder.dim=32",
        r"speech.encoder.dim: found 32, expected 16 as in ssl/config.yaml",
    ),
    overridden(
        "no transcripts",
        "--data.train=x.jsonl",
        "data.train: found no text in the transcripts, expected some",
        x=each_supervision(text=None),
    ),
    overridden(
        "one speaker",
        "--data.train=x.jsonl",
        "x.jsonl: found 1 speaker, expected 2 or more",
        task="speaker",
        x=each_supervision(speaker="a"),
    ),
    overridden(
        "cut without speaker",
        "--data.train=x.jsonl",
        "x.jsonl: cut synthetic-0-0001 has speakers .*None.*, expected exactly one",
        task="speaker",
        x=harness.supervision_with(speaker=None),
    ),
    overridden(
        "speaker unknown in training",
        "--data.valid=x.jsonl",
        "cut synthetic-0-0001: found speaker 'new', expected one of the training data",
        task="speaker",
        x=harness.supervision_with(speaker="new"),
    ),
    overridden(
        "turn without speaker",
        "--data.train=x.jsonl",
        "cut synthetic-0-000.*has no speaker, expected one for every turn",
        task="diarization",
        x=each_supervision(speaker=None),
    ),
    overridden(
        "no labels",
        "--data.train=x.jsonl",
        "x.jsonl: cut synthetic-0-000. has no labels; python -m toolkit.bin.label makes them",
        task="ssl",
        x=manifest(lambda rows: [row.pop("custom") for row in rows]),
    ),
    overridden(
        "labels of another frame rate",
        "--data.train=x.jsonl",
        r"x.jsonl: labels of cut synthetic-0-000. come every 0.04 s, expected 0.02 s",
        task="ssl",
        x=labels_with(frame_shift=0.04),
    ),
    overridden(
        "labels out of range",
        "--objective.num_classes=5",
        r"objective.num_classes: found 5, but cut .* has label \d+; expected at least",
        task="ssl",
    ),
    overridden(
        "files of labels missing",
        "--data.train=x.jsonl",
        "gone/.*: No such file",
        task="ssl",
        x=manifest(without_label_files),
    ),
    overridden(
        "change of speed with labels",
        "--data.augment.speed=[0.9]",
        "speed: cut .* has 'labels' for each frame, expected no change of speed",
        task="ssl",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_refused(fault: Fault, desk: Desk) -> None:
    assert not desk.flaws(fault)


@pytest.mark.parametrize("workers", [0, 1])
def test_fault_met_by_a_loader_process(workers: int, desk: Desk) -> None:
    """What a loader process finds out reaches the user as one line, too."""
    command = (
        f"train --config ssl.yaml --exp new --objective.num_classes=5 --data.sampler.num_workers={workers}"
    )
    assert not desk.flaws(
        Fault("labels out of range", command, "objective.num_classes: found 5, but cut .* has label")
    )


def test_loader_process_that_dies(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that the system ends for want of memory."""
    monkeypatch.setattr("toolkit.tasks.ssl.read_audio", lambda *_: os._exit(9))
    command = "train --config ssl.yaml --exp new --data.sampler.num_workers=1"
    assert not desk.flaws(
        Fault("dead process", command, "data.sampler.num_workers: one of 1 loader processes died, .*expected")
    )


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        ("--seed=5", "seed was 0, is 5"),
        ("--speech.encoder.dim=32", "speech.encoder.dim was 16, is 32"),
        ("--data.train=synthetic:8", "data.train was 'cuts.jsonl.gz', is 'synthetic:8'"),
    ],
)
def test_resume_with_other_settings(change: str, expect: str, desk: Desk, stock: Path) -> None:
    desk.put({"old": harness.copy_of("exp/asr", {})})
    before = {path: path.read_bytes() for path in (desk.folder / "old").rglob("*.safetensors")}
    complaint = (
        f"old/checkpoints/.*: this experiment was started with other settings .{expect}.; expected the same"
    )
    assert not desk.flaws(Fault("other settings", f"train --config asr.yaml --exp old {change}", complaint))
    assert {path: path.read_bytes() for path in (desk.folder / "old").rglob("*.safetensors")} == before

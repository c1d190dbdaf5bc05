"""Bad manifests: refused with file and line; where single cuts are bad, these are skipped and listed."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import harness
from tests.faults.harness import (
    Content,
    Desk,
    Fault,
    cut_with,
    cuts_and,
    json_lines,
    manifest,
    start_of,
    supervision_with,
)

CUT = {"id": "a", "start": 0, "duration": 1, "channel": 0, "supervisions": [], "type": "MonoCut"}
RECORDING = {"id": "r", "sources": [], "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
SUPERVISION = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0}

# Kind -> name of the manifest, content, complaint after the name.
DAMAGED: dict[str, tuple[str, Content, str]] = {
    "missing": ("x.jsonl", harness.nothing, ": no such file"),
    "missing folder": ("no/x.jsonl", harness.nothing, ": no such file"),
    "empty": ("x.jsonl", "", ": the manifest is empty, expected at least one cut"),
    "blank lines": ("x.jsonl", "\n \n", ": the manifest is empty, expected at least one cut"),
    "not JSON at line 7": ("x.jsonl", cuts_and("{'id': 1}\n"), ":7: not JSON .* expected one cut a line"),
    "last line cut short": ("x.jsonl", cuts_and(json_lines(CUT)[:-30]), ":7: not JSON"),
    "one JSON document over many lines": ("x.jsonl", "[\n{}\n]\n", ":1: not JSON"),
    "nested without end": ("x.jsonl", cuts_and("[" * 100_000), ":7: not JSON"),
    "array": ("x.jsonl", cuts_and(json_lines([CUT])), ":7: found a list, expected a cut"),
    "recordings": ("x.jsonl", json_lines(RECORDING), ":1: found a recording, expected a cut"),
    "supervisions": ("x.jsonl", json_lines(SUPERVISION), ":1: found a supervision, expected a cut"),
    "other objects": ("x.jsonl", json_lines({"audio": "a.wav"}), ":1: found an object without a type"),
    "unknown key of a cut": ("x.jsonl", cut_with(lenght=1), ":2: not a valid MonoCut .*lenght"),
    "unknown key of a supervision": ("x.jsonl", supervision_with(lenght=1), ":2: not a valid .*lenght"),
    "missing key": ("x.jsonl", manifest(lambda rows: rows[1].pop("duration")), ":2: .*duration"),
    "id is no string": ("x.jsonl", cut_with(id=None), ":2: .*id: found None, expected a string"),
    "text is no string": ("x.jsonl", supervision_with(text=5), ":2: .*text: found 5, expected a string"),
    "duration is no number": ("x.jsonl", cut_with(duration="1"), ":2: .*duration: found '1', expected a num"),
    "start is not finite": ("x.jsonl", supervision_with(start=math.nan), ":2: .*start: found nan, expected"),
    "not text": ("x.jsonl", cuts_and(b"\x80\x81\n"), ":7: not JSON"),
    "UTF-16": ("x.jsonl", json_lines(CUT).encode("utf-16"), ":1: (not JSON|found)"),
    "gzip cut short": ("x.jsonl.gz", start_of("cuts.jsonl.gz", 0.7), ":[1-6]: damaged gzip file"),
    "gzip without its end": ("x.jsonl.gz", start_of("cuts.jsonl.gz", 0.999), ":[1-7]: damaged gzip file"),
    "not gzip": ("x.jsonl.gz", json_lines(CUT), ":1: damaged gzip file"),
    "other extension": ("x.json", json_lines(CUT), ": expected cuts as .jsonl or .jsonl.gz"),
    "folder that is not Shar": ("x", harness.folder, ": (no cuts.* in this|found a) folder, expected"),
}
READERS = {
    "validate": "prepare validate {}",
    "train": "train --config speaker.yaml --exp new --data.train={}",
    "label": "label --cuts {} --kmeans codebook --out new",
}
OTHER_READERS = {
    "split": "prepare split {} new",
    "shar": "prepare shar {} new",
    "kmeans": "kmeans --cuts {} --out new --clusters 2",
    "decode": "decode --model asr --cuts {} --out new",
    "align": "decode --model asr --cuts {} --out new --align",
    "embed": "embed --model speaker --cuts {} --output new",
    "diarize": "diarize --model diarization --speaker-model speaker --cuts {} --output new",
    "quality": "quality --labels {}",
    "train with validation": "train --config asr.yaml --exp new --data.valid={}",
    "train with noise": "train --config asr.yaml --exp new --data.augment.noise={}"
    " --data.augment.noise_prob=1",
}


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_manifest(kind: str, command: str, desk: Desk) -> None:
    name, content, complaint = DAMAGED[kind]
    assert not desk.flaws(Fault(kind, READERS[command].format(name), name + complaint, {name: content}))


@pytest.mark.parametrize("kind", ["missing", "not JSON at line 7", "gzip cut short"])
@pytest.mark.parametrize("command", OTHER_READERS)
def test_every_reader_names_file_and_line(command: str, kind: str, desk: Desk) -> None:
    name, content, complaint = DAMAGED[kind]
    assert not desk.flaws(Fault(kind, OTHER_READERS[command].format(name), name + complaint, {name: content}))


AUDIO, OTHER = "recording.000000.tar", "recording.000001.tar"
LABELS, LIST = "labels.000000.tar", "cuts.000000.jsonl.gz"
# Kind -> what is done to a Shar folder, complaint after its name.
SHAR: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no audio": (
        lambda shar: (shar / AUDIO).unlink(),
        f"/{AUDIO}: no such file, expected the audio of {LIST}",
    ),
    "audio cut short": (
        lambda shar: os.truncate(shar / AUDIO, 20_480),
        f"/{AUDIO}: cut short, expected a whole",
    ),
    "audio of zero bytes": (
        lambda shar: os.truncate(shar / AUDIO, 0),
        f"/{AUDIO}: cut short, expected a whole",
    ),
    "labels cut short": (
        lambda shar: os.truncate(shar / LABELS, 1024),
        f"/{LABELS}: cut short, expected a whole",
    ),
    "audio of other cuts": (
        lambda shar: shutil.copy(shar / OTHER, shar / AUDIO),
        ": damaged Shar .*Mismatched IDs",
    ),
    "list cut short": (
        lambda shar: os.truncate(shar / LIST, 300),
        ": damaged Shar directory .*end-of-stream",
    ),
    "list of zero bytes": (
        lambda shar: os.truncate(shar / LIST, 0),
        f"/{LIST}: 0 bytes, expected a list of cuts",
    ),
}


@pytest.mark.parametrize("kind", SHAR)
def test_damaged_shar(kind: str, desk: Desk) -> None:
    change, complaint = SHAR[kind]
    desk.works("prepare shar cuts.jsonl.gz shar --shard-size 3")
    change(desk.folder / "shar")
    for command in (
        "decode --model asr --out new --cuts shar",
        "train --config asr.yaml --exp new --data.train=shar",
    ):
        assert not desk.flaws(Fault(kind, command, f"shar{complaint}"))


def test_shar_cannot_become_a_manifest(desk: Desk) -> None:
    """Its audio lies in no file that a manifest could name; all else can be done with it."""
    desk.works("prepare shar cuts.jsonl.gz shar")
    expect = "cut synthetic-0-0000: its audio or labels lie in memory .*, expected files to refer to"
    assert not desk.flaws(Fault("split a Shar folder", "prepare split shar new", expect))
    assert not desk.flaws(Fault("write a Shar folder", "prepare validate shar --out new/cuts.jsonl", expect))
    desk.works("prepare validate shar --decode")
    desk.works("prepare shar shar again")
    desk.works("embed --model speaker --output embedded --cuts again")

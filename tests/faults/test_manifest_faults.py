"""Bad manifests: refused with file and line; where single cuts are bad, these are skipped and listed."""

import math

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
    desk.refuses(Fault(kind, READERS[command].format(name), name + complaint, {name: content}))


@pytest.mark.parametrize("kind", ["missing", "not JSON at line 7", "gzip cut short"])
@pytest.mark.parametrize("command", OTHER_READERS)
def test_every_reader_names_file_and_line(command: str, kind: str, desk: Desk) -> None:
    name, content, complaint = DAMAGED[kind]
    desk.refuses(Fault(kind, OTHER_READERS[command].format(name), name + complaint, {name: content}))

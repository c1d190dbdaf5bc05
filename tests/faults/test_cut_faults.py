"""Manifests in which single cuts are bad: these are skipped, counted and listed, and all else is as without them."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults import harness
from tests.faults.harness import Content, Desk, audio, manifest
from toolkit.decode.embedding import Embeddings
from toolkit.files import read_jsonl

Row = dict[str, Any]


def twice(rows: list[Row]) -> None:
    rows.insert(2, rows[1])


def two_channels(row: Row) -> None:
    row["recording"]["channel_ids"] = row["channel"] = [0, 1]
    row["recording"]["sources"][0]["channels"] = [0, 1]
    row["type"] = "MultiCut"


def overlapping(row: Row) -> None:
    other = {**row["supervisions"][0], "id": "other", "start": 0.2}
    row["supervisions"][0]["duration"] = 0.5
    row["supervisions"].append({**other, "duration": 0.5})


def spoken(**values: Any) -> Callable[[Row], None]:
    return lambda row: row["supervisions"][0].update(values)


# Kind -> task, what is done to the second of six cuts, reason.
BAD_CUTS: dict[str, tuple[str, Callable[[Row], Any], str]] = {
    "overlapping supervisions": ("asr", overlapping, "overlapping supervisions: synthetic-0-0001 and other"),
    "supervision past the end": (
        "asr",
        spoken(duration=99.0),
        "supervision out of range: .* to 99.00 s in a",
    ),
    "supervision before the start": (
        "diarization",
        spoken(start=-1.0),
        "supervision out of range: .* from -1",
    ),
    "supervision of negative length": ("speaker", spoken(duration=-0.5), "supervision out of range"),
    "supervision of no length": ("diarization", spoken(duration=0.0), "supervision out of range"),
    "empty transcript": ("asr", spoken(text="  "), "empty transcript: supervision synthetic-0-0001"),
    "no transcript": ("asr", spoken(text=None), "empty transcript: supervision synthetic-0-0001"),
    "no supervision": ("asr", lambda row: row.pop("supervisions"), "no supervision: the task needs a trans"),
    "no speaker": ("speaker", spoken(speaker=None), "no speaker: supervision synthetic-0-0001"),
    "cut of negative length": (
        "ssl",
        lambda row: row.update(duration=-1.0),
        "too short: -1.00 s, limit 0.1 s",
    ),
    "cut past its recording": ("ssl", lambda row: row.update(start=99.0), "out of range: the cut ends at"),
    "two channels": ("ssl", two_channels, "multi-channel: 2 channels, expected 1"),
    "no recording": ("ssl", lambda row: row.pop("recording"), "missing: the cut has no recording"),
    "hours long": (
        "ssl",
        lambda row: row["recording"].update(duration=9e3) or row.update(duration=9e3),
        "too long",
    ),
}


@pytest.mark.parametrize("kind", BAD_CUTS)
def test_validate_skips(kind: str, desk: Desk) -> None:
    task, change, reason = BAD_CUTS[kind]
    desk.put({"x.jsonl": manifest(lambda rows: change(rows[1]))})
    result = desk.works(f"prepare validate x.jsonl --task {task} --out good.jsonl.gz")
    ((name, found),) = desk.skipped("good.skipped.jsonl").items()
    assert name == "synthetic-0-0001" and re.match(reason, found)
    assert f"x.jsonl: 5 cuts can be used for {task}" in result.out
    assert f"skipped (good.skipped.jsonl): 1 {found.partition(':')[0]}" in result.out
    assert len(list(read_jsonl(desk.folder / "good.jsonl.gz"))) == 5


def test_validate_skips_second_cut_of_an_id(desk: Desk) -> None:
    desk.put({"x.jsonl": manifest(twice)})
    desk.works("prepare validate x.jsonl --out good.jsonl.gz")
    assert desk.skipped("good.skipped.jsonl") == {
        "synthetic-0-0001": "duplicate id: synthetic-0-0001 was used before"
    }
    assert len(list(read_jsonl(desk.folder / "good.jsonl.gz"))) == 6


# Kind -> file, reason; each becomes a cut that says 16 kHz, one channel, a second.
BAD_AUDIO: dict[str, tuple[Content, str]] = {
    "missing": (harness.nothing, "missing: no such file"),
    "empty": (b"", "empty: the file has 0 bytes"),
    "no samples": (audio(lambda tone: tone[:0]), "empty: no samples"),
    "truncated": (audio(keep=0.5), "truncated: "),
    "shorter than said": (
        audio(lambda tone: tone[:8000]),
        "truncated: 8000 samples, the manifest says 16000",
    ),
    "another rate": (audio(rate=8000), "wrong sampling rate: 8000 Hz, the manifest says 16000 Hz"),
    "text": ("this is no audio", "not audio: "),
    "folder": (harness.folder, "unreadable: Is a directory"),
    "not finite": (audio(lambda tone: tone + np.inf, subtype="FLOAT"), "not finite: "),
    "no permission": (harness.unreadable, "unreadable: Permission denied"),
}


def with_bad_audio(rows: list[Row]) -> None:
    """Adds a cut of every kind."""
    for kind in BAD_AUDIO:
        row = copy.deepcopy(rows[0])
        recording = row["recording"]
        recording.update(id=kind, num_samples=16000, duration=1.0)
        recording["sources"] = [{"type": "file", "channels": [0], "source": f"{kind}.wav"}]
        row["supervisions"][0].update(recording_id=kind, duration=1.0)
        row["custom"]["labels"]["array"]["shape"] = [50]
        rows.insert(2, {**row, "id": kind, "duration": 1.0})


def text_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def labels(path: Path) -> dict[str, list[int]]:
    from toolkit.data.manifests import open_cuts

    return {cut.id: cut.load_labels().tolist() for cut in open_cuts(path)}


def codebook(path: Path) -> list:
    from toolkit.ssl.kmeans import KMeans

    return KMeans.load(path).centroids.tolist()


def embeddings(path: Path) -> dict[str, list[float]]:
    found = Embeddings.load(path)
    return dict(zip(found.ids, found.vectors.round(3).tolist(), strict=True))


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read_jsonl(path)]


# Command -> what it makes, how to read that, where the list of skipped cuts is; {} stands for a folder.
COMMANDS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "decode --model asr --out {0} --batch-seconds 1": ("text", text_lines, "skipped.jsonl"),
    "decode --model asr --out {0} --align --batch-seconds 1": ("words.ctm", text_lines, "skipped.jsonl"),
    "embed --model speaker --output {0}/e --batch-seconds 1": ("e", embeddings, "e.skipped.jsonl"),
    "diarize --model diarization --speaker-model speaker --output {0}/r": (
        "r",
        text_lines,
        "r.skipped.jsonl",
    ),
    "kmeans --out {0}/k --clusters 3": ("k", codebook, "k.skipped.jsonl"),
    "label --out {0} --kmeans codebook": ("cuts.jsonl.gz", labels, "skipped.jsonl"),
    "label --out {0} --kmeans layer_codebook --shard-size 2": ("cuts.jsonl.gz", labels, "skipped.jsonl"),
    "prepare validate --decode --out {0}/good.jsonl": ("good.jsonl", ids, "good.skipped.jsonl"),
}


def cuts_option(command: str, cuts: str) -> str:
    return f"{command} {cuts}" if command.startswith("prepare") else f"{command} --cuts {cuts}"


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_audio_in_a_manifest(command: str, desk: Desk, stock: Path) -> None:
    made, read, listed = COMMANDS[command]
    # One of the kinds cannot be made by root.
    kinds = {kind: item for kind, item in BAD_AUDIO.items() if kind != "no permission"}
    desk.put({f"{kind}.wav": content for kind, (content, _) in kinds.items()})
    desk.put({"mixed.jsonl": manifest(with_bad_audio)})
    desk.works(cuts_option(command.format("clean"), "cuts.jsonl.gz"))
    desk.works(cuts_option(command.format("mixed"), "mixed.jsonl"))
    assert read(desk.folder / "mixed" / made) == read(desk.folder / "clean" / made)
    assert desk.skipped(f"clean/{listed}") == {}
    skipped = desk.skipped(f"mixed/{listed}")
    assert skipped.keys() == kinds.keys() | {"no permission"}
    assert all(re.match(reason, skipped[kind]) for kind, (_, reason) in kinds.items()), skipped

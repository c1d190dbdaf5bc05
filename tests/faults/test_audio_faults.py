"""Bad recordings: skipped, counted and listed where there are others, one line where there is none."""

import os
import re
import shlex

import numpy as np
import pytest

from tests.faults import harness
from tests.faults.harness import Content, Desk, Fault, audio

NOISE = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
TEXT = "this is no audio\n" * 9

# Kind -> name of the file, content, reason that must be listed.
RECORDINGS: dict[str, tuple[str, Content, str]] = {
    "missing": ("x.wav", harness.nothing, "missing: no such file"),
    "empty file": ("x.wav", b"", "empty: the file has 0 bytes"),
    "empty mp3 file": ("x.mp3", b"", "empty: the file has 0 bytes"),
    "header without samples": ("x.wav", audio(lambda tone: tone[:0]), "empty: no samples"),
    "header cut short": ("x.wav", audio(keep=0.001), "not audio: "),
    "truncated WAV": ("x.wav", audio(keep=0.5), "truncated: the header says 32000 bytes of samples, found"),
    "truncated FLAC": ("x.flac", audio(keep=0.5), "truncated: .* of 16000 samples"),
    "NaN samples": ("x.wav", audio(lambda tone: tone + np.nan, subtype="FLOAT"), "not finite: "),
    "one infinite sample": ("x.wav", audio(lambda t: np.append(t, np.inf), subtype="FLOAT"), "not finite: "),
    "text called .wav": ("x.wav", TEXT, "not audio: "),
    "text called .ogg": ("x.ogg", TEXT, "not audio: "),
    "noise called .flac": ("x.flac", NOISE, "not audio: "),
    "noise called .mp3": ("x.mp3", NOISE, "(not audio|empty|truncated): "),
    "folder called .wav": ("x.wav", harness.folder, "unreadable: Is a directory"),
    "file without permission": ("x.wav", harness.unreadable, "unreadable: Permission denied"),
    "link to nowhere": ("x.wav", harness.link_to_nowhere, "missing: no such file"),
}
# What `prepare` refuses too, as it looks at levels, lengths and transcripts.
DOUBTFUL: dict[str, tuple[str, Content, str]] = {
    "clipped": ("x.wav", audio(np.sign), "clipped: .*, limit 5.0%"),
    "silent": ("x.wav", audio(lambda tone: 0 * tone), "silent: level -200 dB, limit -70 dB"),
    "silent, stereo, 8 kHz": ("x.wav", audio(lambda t: np.stack([t, -t], 1), rate=8000), "silent: level"),
    "too short": ("x.wav", audio(lambda tone: tone[:100]), "too short: 0.01 s, limit 0.1 s"),
    "empty transcript": ("x.wav", audio(), "empty transcript: "),
    "transcript not in UTF-8": ("x.wav", audio(), "unreadable transcript: x.txt is not UTF-8"),
}
TRANSCRIPTS = {"empty transcript": b" ?!\n", "transcript not in UTF-8": "Straße".encode("latin-1")}

GOOD = "audio/synthetic-0-0003.flac"
COMMANDS = {
    "decode": "decode --model asr",
    "embed": "embed --model speaker --output out/found",
    "diarize": "diarize --model diarization --speaker-model speaker --output out/found",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", RECORDINGS)
def test_bad_recording_is_skipped(kind: str, command: str, desk: Desk) -> None:
    name, content, reason = RECORDINGS[kind]
    desk.put({name: content})
    result = desk.works(f"{COMMANDS[command]} {name} {GOOD}")
    if command == "decode":
        assert re.fullmatch(f"skipped {name}: {reason}.*\n", result.err)
        assert result.out.startswith("synthetic-0-0003\t")
    else:
        ((skipped, found),) = desk.skipped("out/found.skipped.jsonl").items()
        assert skipped == "x" and re.match(reason, found)
        assert "1 skipped, listed in out/found.skipped.jsonl" in result.out
        assert (desk.folder / "out/found").stat().st_size


@pytest.mark.parametrize("kind", [*RECORDINGS, *DOUBTFUL])
def test_prepare_skips(kind: str, desk: Desk) -> None:
    name, content, reason = {**RECORDINGS, **DOUBTFUL}[kind]
    desk.put({"in/good.wav": audio(), f"in/{name}": content})
    if kind in TRANSCRIPTS:
        desk.put({"in/x.txt": TRANSCRIPTS[kind]})
    result = desk.works("prepare folder in out")
    skipped = desk.skipped("out/skipped.jsonl")
    # A folder is looked into, and what is not there is not met.
    if kind in ("missing", "folder called .wav"):
        assert skipped == {}
    else:
        assert skipped.keys() == {"x"} and re.match(reason, skipped["x"])
        assert "2 audio files, 1 used" in result.out
        assert f"skipped (out/skipped.jsonl): 1 {reason.partition(':')[0]}" in result.out or "|" in reason
    assert (desk.folder / "out/cuts_train.jsonl.gz").exists()


@pytest.mark.parametrize("command", ["decode", "embed"])
def test_next_to_nothing_is_skipped(command: str, desk: Desk) -> None:
    """Too short for a frame; for diarization nobody speaks there."""
    desk.put({"x.wav": audio(lambda tone: tone[:10])})
    expect = "none of 1 recordings can be used; the first: x.wav: too short: 10 samples, limit 0.1 s"
    assert not desk.flaws(Fault("next to nothing", f"{COMMANDS[command]} x.wav", expect))


def test_name_that_is_not_utf8(desk: Desk) -> None:
    """It cannot be written into a manifest."""
    desk.put({"in/good.wav": audio()})
    (desk.folder / os.fsdecode(b"in/caf\xe9.wav")).write_bytes((desk.folder / "in/good.wav").read_bytes())
    desk.works("prepare folder in out")
    ((name, reason),) = desk.skipped("out/skipped.jsonl").items()
    assert name == r"caf\xe9" and reason == "unreadable name: not UTF-8"


def test_closed_folder_is_skipped(desk: Desk) -> None:
    desk.put({"in/good.wav": audio(), "in/closed": harness.closed_folder})
    desk.works("prepare folder in out")
    assert desk.skipped("out/skipped.jsonl") == {"closed": "unreadable: Permission denied"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_good_recording(command: str, desk: Desk) -> None:
    desk.works(f"{COMMANDS[command]} {GOOD}")
    before = (desk.folder / "out/found").read_bytes() if command != "decode" else None
    expect = r"none of 2 recordings can be used; the first: x\.wav: not audio: "
    assert not desk.flaws(
        Fault("no good recording", f"{COMMANDS[command]} x.wav y.wav", expect, {"x.wav": TEXT})
    )
    assert before is None or (desk.folder / "out/found").read_bytes() == before


ODD_BUT_GOOD = {
    "a name with  spaces.wav": audio(),
    "été – 録音, \"quoted\" 'n' %s {}.wav": audio(),
    "-dash.wav": audio(),
    "UPPER CASE.WAV": audio(),
    "stereo.wav": audio(lambda tone: np.stack([tone, tone / 2], 1)),
    "telephone.wav": audio(rate=8000),
    "studio.wav": audio(rate=96000, subtype="PCM_24"),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_odd_recording_works(name: str, desk: Desk) -> None:
    desk.put({f"in here/{name}": ODD_BUT_GOOD[name]})
    path = shlex.quote(f"in here/{name}")
    for command in COMMANDS.values():
        desk.works(f"{command} {path}")
    desk.works("prepare folder 'in here' 'out there'")
    assert desk.skipped("out there/skipped.jsonl") == {}
    result = desk.works("decode --model asr --cuts 'out there/cuts.jsonl.gz' --out 'out there'")
    assert "1 recordings in out there; 0 skipped" in result.out


def test_odd_names_of_folders_work(desk: Desk) -> None:
    desk.put({"a  model/ü": harness.copy_of("speaker", {}), "my data/ç.jsonl": harness.manifest()})
    desk.works("embed --model 'a  model/ü' --cuts 'my data/ç.jsonl' --output 'my results/é'")
    assert desk.skipped("my results/é.skipped.jsonl") == {}

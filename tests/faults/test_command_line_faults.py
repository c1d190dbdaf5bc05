"""Impossible command lines: options that are missing, contradict each other or make no sense, nothing to work on."""

import pytest

from tests.faults import harness
from tests.faults.harness import Desk, Fault

LATIN = "a Straße\n".encode("latin-1")
CUTS = "--cuts cuts.jsonl.gz"
DIARIZE = "diarize --model diarization --speaker-model speaker"
LABEL = f"label {CUTS} --kmeans codebook --out new"

COMMAND_LINES = [
    Fault("verify one file", "verify --model speaker ref", "found 1 audio files, expected two, and --model"),
    Fault(
        "verify nothing",
        "verify",
        "command line: expected --trials, --embeddings, --output, or two audio files",
    ),
    Fault(
        "decode nothing",
        "decode --model asr",
        "command line: found none of --cuts and audio files, expected one",
    ),
    Fault("decode both", f"decode --model asr {CUTS} --out new ref", "command line: found both of --cuts"),
    Fault("decode cuts to nowhere", f"decode --model asr {CUTS}", "command line: --cuts needs --out"),
    Fault(
        "two files of a name",
        "decode --model asr a/x.wav b/x.wav",
        "b/x.wav: found a second file called x after",
    ),
    Fault(
        "one cut twice",
        "decode --model asr --cuts x.jsonl --out new",
        "x.jsonl: found 2 cuts of the id 'synth",
        {"x.jsonl": harness.manifest(lambda rows: rows.insert(2, rows[1]))},
    ),
    Fault("unknown option", "decode --modle asr", "unrecognized arguments|required: --model"),
    Fault("unknown command of score", "score werr", "invalid choice: 'werr'"),
    Fault(
        "word for a number",
        "label --cuts a --kmeans b --out c --jobs two",
        "argument --jobs: invalid int value: 'two'",
    ),
    Fault("no jobs", f"{LABEL} --jobs 0", "jobs, shard-size: found 0, 500; expected 1 or more"),
    Fault("shards of no cuts", f"{LABEL} --shard-size 0", "jobs, shard-size: found 1, 0; expected"),
    Fault(
        "label into a folder of other files",
        f"label {CUTS} --kmeans codebook --out exp",
        "exp: found asr, .*, expected a new folder to write",
    ),
    Fault(
        "embed no seconds",
        f"embed --model speaker {CUTS} --output new --max-seconds 0",
        "max-seconds: found 0",
    ),
    Fault(
        "split into too much",
        "prepare split cuts.jsonl.gz new --valid 0.7 --test 0.7",
        "found 0.7 and 0.7, expected two",
    ),
    Fault(
        "shares that are negative",
        "prepare split cuts.jsonl.gz new --valid -0.1",
        "found -0.1 and 0.05, expected two",
    ),
    Fault(
        "Shar folder exists",
        "prepare shar cuts.jsonl.gz exp",
        "exp: exists already, expected the name of a new folder",
    ),
    Fault(
        "tar files of no cuts",
        "prepare shar cuts.jsonl.gz new --shard-size 0",
        "shard.size: found 0, expected at least 1",
    ),
    Fault("prepare no folder", "prepare folder gone new", "gone: no such folder"),
    Fault(
        "prepare a closed folder",
        "prepare folder in new",
        "in: may not be read",
        {"in": harness.closed_folder},
    ),
    Fault("prepare a file", "prepare folder ref new", "ref: no such folder"),
    Fault(
        "prepare an empty folder",
        "prepare folder in new",
        "in: no file can be used, so no manifest was written",
        {"in": harness.folder},
    ),
    Fault(
        "prepare a folder without audio",
        "prepare folder in new",
        "in: no file can be used",
        {"in/notes.txt": "text", "in/picture.png": b"\x89PNG"},
    ),
    Fault(
        "negative channel",
        "prepare folder in new --channel -1",
        "channel: found -1, expected",
        {"in/x.wav": harness.audio()},
    ),
    Fault(
        "limits the wrong way round",
        "prepare folder audio new --min-duration 5 --max-duration 1",
        "min-duration and max-duration: found 5 and 1",
    ),
    Fault("transcripts missing", "prepare folder audio new --transcripts x.tsv", "x.tsv: no such file"),
    Fault(
        "transcripts not in UTF-8",
        "prepare folder audio new --transcripts x.tsv",
        "x.tsv: not UTF-8 text",
        {"x.tsv": LATIN},
    ),
    Fault(
        "transcripts of one column",
        "prepare folder audio new --transcripts x.tsv",
        r"x.tsv:2: found 1 column\(s\), expected path",
        {"x.tsv": "a.wav\ttext\nb.wav\n"},
    ),
    Fault(
        "two transcripts of a file",
        "prepare folder audio new --transcripts x",
        "x:2: 'a' was given a transcript before",
        {"x": "a text\na other\n"},
    ),
    Fault(
        "damaged index",
        "prepare folder audio new",
        "new/index.sqlite: not an index of this program",
        {"new/index.sqlite": "this is not a data base at all\n" * 99},
    ),
    Fault("diarize cuts to nowhere", f"{DIARIZE} --cuts a", "found --cuts without --output"),
    Fault("window of no length", f"{DIARIZE} --window 0 a.wav", "window=0.0"),
]


@pytest.mark.parametrize("fault", COMMAND_LINES, ids=lambda fault: fault.name)
def test_impossible_command(fault: Fault, desk: Desk) -> None:
    assert not desk.flaws(fault)

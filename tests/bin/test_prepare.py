"""The command `prepare`."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from toolkit.bin.prepare import main
from toolkit.data.folder import Index
from toolkit.data.manifests import mono_cut, open_cuts, write_cuts
from toolkit.data.transcripts import Transcripts
from toolkit.errors import UserError


def noise(seconds: float, sampling_rate: int = 16_000, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((round(seconds * sampling_rate), channels))


@pytest.fixture()
def folder(tmp_path):
    """Two speakers with six files each, and some of other kinds."""
    result = tmp_path / "mine"
    for speaker in ("anna", "ben"):
        (result / speaker / "deep").mkdir(parents=True)
        for number in range(6):
            soundfile.write(result / speaker / "deep" / f"{speaker}{number}.wav", noise(1), 16_000)
    soundfile.write(result / "anna" / "stereo.flac", noise(2, 44_100, 2), 44_100)
    soundfile.write(result / "ben" / "slow.mp3", noise(1, 8000), 8000)
    return result


def read_rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_folder_without_transcripts(folder, tmp_path, capsys):
    out = tmp_path / "out"
    main(["folder", str(folder), str(out), "--speaker", "folder", "--valid", "0.2", "--test", "0.3"])
    cuts = list(open_cuts(out / "cuts.jsonl.gz"))
    splits = [
        cut.id for name in ("train", "valid", "test") for cut in open_cuts(out / f"cuts_{name}.jsonl.gz")
    ]
    assert len(cuts) == 14 and sorted(splits) == sorted(cut.id for cut in cuts)
    for cut in cuts:
        assert (
            cut.sampling_rate == 16_000
            and cut.num_channels == 1
            and cut.load_audio().shape == (1, cut.num_samples)
        )
        assert cut.supervisions[0].speaker == cut.id.split("-")[0] and cut.supervisions[0].text is None
    by_id = {cut.id: cut for cut in cuts}
    assert by_id["anna-deep-anna0"].recording.sources[0].source == str(folder / "anna" / "deep" / "anna0.wav")
    assert by_id["anna-stereo"].recording.sources[0].source == str(
        out / "audio" / "anna" / "stereo.flac.flac"
    )
    assert abs(by_id["ben-slow"].duration - 1) < 0.1
    said = capsys.readouterr().out
    assert "14 audio files, 14 used" in said and "1 flac 44100 Hz, 2 channels; 1 mp3 8000 Hz" in said
    assert "their mean was taken" in said and (out / "skipped.jsonl").read_text() == ""


def test_channel_is_said_aloud(folder, tmp_path, capsys):
    main(["folder", str(folder), str(tmp_path / "out"), "--channel", "0"])
    assert "channel 0 was taken" in capsys.readouterr().out
    main(["folder", str(folder), str(tmp_path / "out"), "--channel", "1"])
    reasons = [row["reason"] for row in read_rows(tmp_path / "out" / "skipped.jsonl")]
    assert reasons == [
        "multi-channel: no channel 1, the file has 1"
    ]  # the mp3; other files need no conversion


def test_kaldi_transcripts(folder, tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text("anna0 Hello, World!\nanna1\nghost nobody\nben-deep-ben2 “it’s” me\n", encoding="utf-8")
    main(["folder", str(folder), str(tmp_path / "out"), "--transcripts", str(text), "--language", "en"])
    texts = {cut.id: cut.supervisions[0].text for cut in open_cuts(tmp_path / "out" / "cuts.jsonl.gz")}
    assert texts["anna-deep-anna0"] == "hello world" and texts["ben-deep-ben2"] == "it's me"
    assert texts["anna-deep-anna2"] is None and "anna-deep-anna1" not in texts
    assert [row["reason"].split(":")[0] for row in read_rows(tmp_path / "out" / "skipped.jsonl")] == [
        "empty transcript"
    ]
    assert "1 lines name no usable file, such as ghost" in capsys.readouterr().out


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_table_of_transcripts(folder, tmp_path, header, suffix):
    rows = [("anna/deep/anna0.wav", "One, two", "x"), (str(folder / "ben/deep/ben0.wav"), "three", "y")]
    if header:
        rows = [("client_id", "path", "sentence"), *((speaker, path, text) for path, text, speaker in rows)]
    quote = (lambda text: f'"{text}"') if suffix == "csv" else str
    lines = ((",", "\t")[suffix == "tsv"].join(map(quote, row)) for row in rows)
    (tmp_path / f"list.{suffix}").write_text("\n".join(lines) + "\n")
    main(
        [
            "folder",
            str(folder),
            str(tmp_path / "out"),
            "--transcripts",
            str(tmp_path / f"list.{suffix}"),
            "--keep-text",
        ]
    )
    found = {cut.id: cut.supervisions[0] for cut in open_cuts(tmp_path / "out" / "cuts.jsonl.gz")}
    assert (found["anna-deep-anna0"].text, found["anna-deep-anna0"].speaker) == ("One, two", "x")
    assert (found["ben-deep-ben0"].text, found["ben-deep-ben0"].speaker) == ("three", "y")


def test_text_beside_the_audio(folder, tmp_path):
    (folder / "anna" / "stereo.txt").write_text("\ufeffTwo\nlines.", encoding="utf-8")
    (folder / "ben" / "slow.txt").write_bytes(b"\xff\xfe\x00bad")
    main(["folder", str(folder), str(tmp_path / "out")])
    texts = {cut.id: cut.supervisions[0].text for cut in open_cuts(tmp_path / "out" / "cuts.jsonl.gz")}
    assert texts["anna-stereo"] == "two lines" and "ben-slow" not in texts
    assert "not UTF-8" in read_rows(tmp_path / "out" / "skipped.jsonl")[0]["reason"]


def test_long_files_are_cut_up_or_skipped(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("free", "told"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", noise(7), 16_000)
    (tmp_path / "in" / "told.txt").write_text("words")
    main(["folder", str(tmp_path / "in"), str(tmp_path / "out"), "--max-duration", "3"])
    cuts = list(open_cuts(tmp_path / "out" / "cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == ["free-0000", "free-0001", "free-0002"]
    assert sum(cut.num_samples for cut in cuts) == 7 * 16_000 and max(cut.duration for cut in cuts) < 3
    whole = np.concatenate([cut.load_audio()[0] for cut in cuts])
    assert np.array_equal(whole, soundfile.read(tmp_path / "in" / "free.wav", dtype="float32")[0])
    (row,) = read_rows(tmp_path / "out" / "skipped.jsonl")
    assert row["reason"].startswith("too long: 7.0 s with a transcript")


def test_bad_files_are_skipped_counted_and_listed(folder, tmp_path, capsys):
    (folder / "empty.wav").touch()
    (folder / "words.wav").write_text("words " * 100)
    (folder / "words.mp3").write_text("words " * 100)
    content = (folder / "anna" / "deep" / "anna0.wav").read_bytes()
    (folder / "cut off.wav").write_bytes(content[:9000])
    os.symlink("nowhere", folder / "link.flac")
    for name, samples in (
        ("silent", np.zeros(16_000)),
        ("clipped", np.ones(16_000)),
        ("none", np.zeros(0)),
        ("brief", noise(0.01)),
    ):
        soundfile.write(folder / f"{name}.wav", samples, 16_000)
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    shutil.copy(folder / "anna" / "deep" / "anna0.wav", folder / "anna-deep-anna0.wav")
    main(["folder", str(folder), str(tmp_path / "out")])
    reasons = {
        row["path"].rsplit("/", 1)[1]: row["reason"].split(":")[0]
        for row in read_rows(tmp_path / "out" / "skipped.jsonl")
    }
    assert reasons == {
        "empty.wav": "empty",
        "none.wav": "empty",
        "words.wav": "not audio",
        "words.mp3": "not audio",
        "cut off.wav": "truncated",
        "link.flac": "missing",
        "silent.wav": "silent",
        "clipped.wav": "clipped",
        "brief.wav": "too short",
        "nan.wav": "not finite",
        "anna0.wav": "duplicate id",
    }
    assert "25 audio files, 14 used" in capsys.readouterr().out


def test_second_start_looks_only_at_what_changed(folder, tmp_path, monkeypatch):
    import toolkit.data.folder as room

    probed = []
    real_probe = room.probe
    monkeypatch.setattr(
        room, "probe", lambda file, *rest: probed.append(file.path) or real_probe(file, *rest)
    )
    command = ["folder", str(folder), str(tmp_path / "out"), "--threads", "2"]
    main(command)
    first = (tmp_path / "out" / "cuts.jsonl.gz").read_bytes()
    assert len(probed) == 14
    probed.clear()
    main(command)
    assert probed == [] and (tmp_path / "out" / "cuts.jsonl.gz").read_bytes() == first
    soundfile.write(folder / "anna" / "deep" / "anna0.wav", noise(2), 16_000)
    (folder / "ben" / "deep" / "ben0.wav").unlink()
    (tmp_path / "out" / "audio" / "ben" / "slow.mp3.flac").unlink()
    main(command)
    assert sorted(probed) == ["anna/deep/anna0.wav", "ben/slow.mp3"]
    cuts = {cut.id: cut.duration for cut in open_cuts(tmp_path / "out" / "cuts.jsonl.gz")}
    assert cuts["anna-deep-anna0"] == 2 and "ben-deep-ben0" not in cuts and len(cuts) == 13


def test_interrupted_probing_goes_on(folder, tmp_path, monkeypatch):
    import toolkit.data.folder as room

    real_probe = room.probe

    def interrupted(file, *rest):
        if file.path == "ben/deep/ben3.wav":
            raise KeyboardInterrupt
        return real_probe(file, *rest)

    monkeypatch.setattr(room, "probe", interrupted)
    command = ["folder", str(folder), str(tmp_path / "out"), "--threads", "1"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert not (tmp_path / "out" / "cuts.jsonl.gz").exists()
    probed = []
    monkeypatch.setattr(
        room, "probe", lambda file, *rest: probed.append(file.path) or real_probe(file, *rest)
    )
    main(command)
    assert probed == ["ben/deep/ben3.wav", "ben/deep/ben4.wav", "ben/deep/ben5.wav"]


def test_output_inside_the_folder_is_not_taken_for_input(folder):
    for _ in range(2):
        main(["folder", str(folder), str(folder / "out")])
    assert len(list(open_cuts(folder / "out" / "cuts.jsonl.gz"))) == 14


MISTAKES = {
    "no folder": (["folder", "{tmp}/nowhere", "{tmp}/out"], "nowhere: no such folder"),
    "nothing usable": (["folder", "{tmp}/empty", "{tmp}/out"], "no file can be used"),
    "no transcripts": (["folder", "{mine}", "{tmp}/out", "--transcripts", "{tmp}/no"], "no: no such file"),
    "binary transcripts": (
        ["folder", "{mine}", "{tmp}/out", "--transcripts", "{tmp}/binary"],
        "not UTF-8 text",
    ),
    "twice": (
        ["folder", "{mine}", "{tmp}/out", "--transcripts", "{tmp}/twice"],
        "twice:2: 'a' was given a transcript before",
    ),
    "one column": (
        ["folder", "{mine}", "{tmp}/out", "--transcripts", "{tmp}/one.tsv"],
        "one.tsv:1: found 1 column",
    ),
    "ambiguous": (
        ["folder", "{mine}", "{tmp}/out", "--transcripts", "{tmp}/same"],
        "same:1: 'same' stands for",
    ),
    "shares": (["folder", "{mine}", "{tmp}/out", "--valid", "0.7", "--test", "0.4"], "sum is below 1"),
    "no speakers": (
        ["folder", "{mine}", "{tmp}/out", "--split-by", "speaker"],
        "expected one to split by speaker",
    ),
    "limits": (["folder", "{mine}", "{tmp}/out", "--max-clipped", "7"], "max_clipped: found 7.0"),
    "not cuts": (["validate", "{tmp}/twice"], "expected cuts as .jsonl"),
    "no manifest": (["validate", "{tmp}/no.jsonl"], "no.jsonl: no such file"),
    "all bad": (["validate", "{tmp}/bad.jsonl"], "no cut can be used for ssl"),
    "shar exists": (["shar", "{tmp}/bad.jsonl", "{tmp}/empty"], "empty: exists already"),
    "shard size": (["shar", "{tmp}/bad.jsonl", "{tmp}/new", "--shard-size", "0"], "shard size: found 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(folder, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"a \xff\xfe")
    (tmp_path / "twice").write_text("a one\na two\n")
    (tmp_path / "one.tsv").write_text("just this\n")
    (tmp_path / "same").write_text("same words\n")
    write_cuts(tmp_path / "bad.jsonl", [mono_cut("a", tmp_path / "none.wav", 16_000)])
    for speaker in ("anna", "ben") if name == "ambiguous" else ():
        soundfile.write(folder / speaker / "same.wav", noise(1), 16_000)
    arguments, message = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        main([argument.format(tmp=tmp_path, mine=folder) for argument in arguments])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_exit_code_and_speed_of_help(tmp_path):
    command = [sys.executable, "-m", "toolkit.bin.prepare"]
    failed = subprocess.run(
        [*command, "folder", str(tmp_path / "no"), str(tmp_path)], capture_output=True, text=True
    )
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "no such folder" in failed.stderr
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0 and "examples:" in helped.stdout
    code = "import sys, toolkit.bin.prepare as p; p.parser(); print({'torch', 'lhotse'} & set(sys.modules))"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert imported.stdout.strip() == "set()"


def test_validate_split_and_shar(folder, tmp_path, capsys):
    out = tmp_path / "out"
    main(["folder", str(folder), str(out), "--speaker", "folder"])
    (folder / "anna" / "deep" / "anna0.wav").unlink()
    main(
        [
            "validate",
            str(out / "cuts.jsonl.gz"),
            "--task",
            "speaker",
            "--decode",
            "--out",
            str(tmp_path / "good.jsonl.gz"),
        ]
    )
    assert read_rows(tmp_path / "good.skipped.jsonl")[0]["id"] == "anna-deep-anna0"
    assert len(open_cuts(tmp_path / "good.jsonl.gz")) == 13
    main(
        [
            "split",
            str(tmp_path / "good.jsonl.gz"),
            str(tmp_path / "parts"),
            "--split-by",
            "speaker",
            "--test",
            "0.5",
            "--seed",
            "1",
        ]
    )
    assert (tmp_path / "parts" / "cuts_train.jsonl.gz").exists()
    main(["shar", str(out / "cuts.jsonl.gz"), str(tmp_path / "shar"), "--shard-size", "5"])
    assert read_rows(tmp_path / "shar.skipped.jsonl")[0]["reason"] == "missing: no such file"
    main(["validate", str(tmp_path / "shar"), "--decode"])
    said = capsys.readouterr().out
    assert "13 cuts in tar files of 5" in said and "13 cuts can be used for ssl" in said


def test_damaged_index_is_told(tmp_path):
    (tmp_path / "index.sqlite").write_text("not a database, " * 100)
    with pytest.raises(UserError, match="remove it to start anew"):
        Index(tmp_path / "index.sqlite", "settings")


def test_transcripts_are_found_by_path_id_or_name(tmp_path):
    (tmp_path / "text").write_text("a/b.wav 1\nc/d 2\ne-f 3\ng.wav 4\nh 5\n")
    list_ = Transcripts(tmp_path / "text", tmp_path)
    paths = {"a/b.wav": "1", "c/d.wav": "2", "e/f.wav": "3", "x/g.wav": "4", "y/h.wav": "5"}
    for path, text in paths.items():
        assert list_.find(path, path.replace("/", "-").removesuffix(".wav")).text == text
    assert list_.find("z/z.wav", "z-z") is None
    assert list_.unused() == (0, [])

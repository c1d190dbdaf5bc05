"""embed, verify and diarize from end to end, with small untrained models."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from toolkit.bin import diarize, embed, verify
from toolkit.config import build
from toolkit.data.synthetic import synthetic_cuts
from toolkit.decode.embedding import Embeddings
from toolkit.decode.stitching import Turn
from toolkit.errors import UserError
from toolkit.tasks.diarization import DiarizationConfig, DiarizationTask
from toolkit.tasks.load import save_model
from toolkit.tasks.speaker import SpeakerConfig, SpeakerTask

SPEECH = {"encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}}
HEAD = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}


def save_untrained(task_type, config_type, settings, folder):
    torch.manual_seed(0)
    task = task_type(build(config_type, settings, "test"), folder, seed=0)
    task.prepare()
    save_model(folder, task.build_model(), task.config)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a speaker model, a segmentation model, five cuts and their files."""
    folder = tmp_path_factory.mktemp("speakers")
    save_untrained(
        SpeakerTask,
        SpeakerConfig,
        {
            "data": {"train": "synthetic:4"},
            "speech": SPEECH,
            "head": {"hidden_dim": 8, "attention_dim": 4, "embedding_dim": 8},
        },
        folder / "speaker",
    )
    save_untrained(
        DiarizationTask,
        DiarizationConfig,
        {"speech": SPEECH, "head": HEAD, "chunk_seconds": 1.0},
        folder / "segmentation",
    )
    synthetic_cuts(5, folder=folder)
    return folder


@pytest.fixture(scope="module")
def embeddings(place):
    embed.main(
        [
            "--model",
            f"{place}/speaker",
            "--cuts",
            f"{place}/cuts.jsonl.gz",
            "--output",
            f"{place}/e.safetensors",
        ]
    )
    return place / "e.safetensors"


def wav(place, number):
    return str(place / "audio" / f"synthetic-0-000{number}.flac")


def test_embed_cuts(place, embeddings):
    found = Embeddings.load(embeddings)
    assert found.ids == [f"synthetic-0-000{n}" for n in range(5)] and found.vectors.shape == (5, 8)
    assert (place / "e.safetensors.skipped.jsonl").read_text() == ""


def test_embed_files_gives_the_same_and_lists_bad_ones(place, embeddings, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no audio")
    output = tmp_path / "files.safetensors"
    soundfile.write(tmp_path / "blip.wav", np.zeros(7), 16000)
    bad = [str(tmp_path / f"{name}.wav") for name in ("text", "none", "blip")]
    files = [wav(place, 3), *bad, wav(place, 1)]
    embed.main(["--model", f"{place}/speaker", "--output", str(output), "--batch-seconds", "1", *files])
    assert "2 embeddings in" in capsys.readouterr().out
    found, all_five = Embeddings.load(output), Embeddings.load(embeddings)
    assert found.ids == ["synthetic-0-0003", "synthetic-0-0001"]
    np.testing.assert_allclose(found.vectors, all_five.vectors[[3, 1]], atol=1e-4)
    rows = [
        json.loads(line) for line in (tmp_path / "files.safetensors.skipped.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == ["text", "none", "blip"]
    assert [row["reason"].split(":")[0] for row in rows] == ["not audio", "missing", "too short"]


def test_embed_nothing_that_can_be_read(place, tmp_path):
    with pytest.raises(UserError, match="none of 1 recordings can be used; the first: .*missing"):
        embed.main(
            ["--model", f"{place}/speaker", "--output", str(tmp_path / "x"), str(tmp_path / "none.wav")]
        )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", [embed, diarize])
def test_model_of_another_task(command, place, tmp_path):
    other = {"embed": "segmentation", "diarize": "speaker"}[command.__name__.split(".")[-1]]
    arguments = ["--model", f"{place}/{other}", "--output", str(tmp_path / "x"), wav(place, 0)]
    arguments += ["--speaker-model", f"{place}/speaker"] if command is diarize else []
    with pytest.raises(UserError, match="found a model of the task"):
        command.main(arguments)


def test_unknown_device(place, tmp_path):
    with pytest.raises(UserError, match="device: found 'abacus'"):
        embed.main(["--model", f"{place}/speaker", "--output", "x", "--device", "abacus", wav(place, 0)])


def test_verify_trials(place, embeddings, tmp_path, capsys):
    (tmp_path / "trials").write_text(
        "1 synthetic-0-0000 synthetic-0-0004\n0 synthetic-0-0000 synthetic-0-0001\n"
    )
    arguments = ["--trials", f"{tmp_path}/trials", "--embeddings", str(embeddings)]
    verify.main([*arguments, "--output", f"{tmp_path}/plain"])
    vectors = Embeddings.load(embeddings).vectors
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lines = [line.split() for line in (tmp_path / "plain").read_text().splitlines()]
    assert [line[:2] for line in lines] == [
        ["synthetic-0-0000", "synthetic-0-0004"],
        ["synthetic-0-0000", "synthetic-0-0001"],
    ]
    np.testing.assert_allclose(
        [float(x[2]) for x in lines], [units[0] @ units[4], units[0] @ units[1]], atol=1e-5
    )
    verify.main([*arguments, "--output", f"{tmp_path}/centred", "--cohort", str(embeddings)])
    centred = vectors - vectors.mean(0)
    expected = centred[0] @ centred[1] / np.linalg.norm(centred[0]) / np.linalg.norm(centred[1])
    assert float((tmp_path / "centred").read_text().split()[-1]) == pytest.approx(expected, abs=1e-4)


def test_verify_two_files(place, embeddings, capsys):
    verify.main(["--model", f"{place}/speaker", wav(place, 0), wav(place, 4)])
    a, b = Embeddings.load(embeddings).vectors[[0, 4]]
    assert float(capsys.readouterr().out) == pytest.approx(
        a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-3
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 synthetic-0-0000 nobody", r"trials:2: found 'nobody', expected a recording in .*e.safetensors"),
        ("what is this", "trials:2: found"),
    ],
)
def test_verify_bad_trials(line, message, embeddings, tmp_path):
    (tmp_path / "trials").write_text(f"1 synthetic-0-0000 synthetic-0-0004\n{line}\n")
    with pytest.raises(ValueError, match=message):
        verify.main(
            [
                "--trials",
                f"{tmp_path}/trials",
                "--embeddings",
                str(embeddings),
                "--output",
                f"{tmp_path}/scores",
            ]
        )
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("arguments", [[], ["--trials", "t"], ["one.wav"], ["one.wav", "two.wav"]])
def test_verify_wants_trials_or_two_files(arguments):
    with pytest.raises(UserError, match="command line: "):
        verify.main(arguments)


def test_verify_embeddings_that_are_damaged(embeddings, tmp_path):
    (tmp_path / "short").write_bytes(embeddings.read_bytes()[:-8])
    (tmp_path / "trials").write_text("1 synthetic-0-0000 synthetic-0-0004\n")
    with pytest.raises(UserError, match="short: damaged"):
        verify.main(["--trials", f"{tmp_path}/trials", "--embeddings", f"{tmp_path}/short", "--output", "x"])


def diarize_with(place, *arguments):
    diarize.main(
        ["--model", f"{place}/segmentation", "--speaker-model", f"{place}/speaker", *map(str, arguments)]
    )


def test_diarize_cuts_and_files_alike(place, tmp_path, capsys):
    diarize_with(place, "--cuts", f"{place}/cuts.jsonl.gz", "--output", tmp_path / "cuts.rttm")
    assert "5 recordings in" in capsys.readouterr().out
    diarize_with(place, "--output", tmp_path / "files.rttm", *(wav(place, n) for n in range(5)))
    shown = capsys.readouterr().out
    assert (tmp_path / "cuts.rttm").read_text() == (tmp_path / "files.rttm").read_text()
    for line in (tmp_path / "cuts.rttm").read_text().splitlines():
        kind, name, channel, start, duration, *_, speaker, _, _ = line.split()
        assert (kind, channel) == ("SPEAKER", "1") and float(start) >= 0 and float(duration) > 0
        assert name in shown and speaker in shown


def test_diarize_skips_what_it_cannot_read(place, tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT")
    shutil.copy(wav(place, 0), tmp_path / "fine.flac")
    diarize_with(place, tmp_path / "nan.wav", tmp_path / "fine.flac", "--output", tmp_path / "out.rttm")
    (row,) = (json.loads(line) for line in (tmp_path / "out.rttm.skipped.jsonl").read_text().splitlines())
    assert row["id"] == "nan" and row["reason"].startswith("not finite")
    with pytest.raises(UserError, match="none of 1 recordings can be used; the first: .*not finite"):
        diarize_with(place, tmp_path / "nan.wav")


def test_diarize_next_to_nothing(place, tmp_path):
    soundfile.write(tmp_path / "blip.wav", np.zeros(7), 16000)
    diarize_with(place, tmp_path / "blip.wav", "--output", tmp_path / "out.rttm")
    assert (tmp_path / "out.rttm").read_text() == ""


def test_diarize_subtracts_the_mean_of_a_cohort(place, embeddings, tmp_path):
    arguments = ["--model", f"{place}/segmentation", "--speaker-model", f"{place}/speaker", "x.wav"]
    plain, centred = (
        diarize.build_diarizer(diarize.parser().parse_args([*arguments, *more])).embed
        for more in ([], ["--cohort", str(embeddings)])
    )
    voices, lengths = torch.randn(2, 8000), torch.tensor([8000, 8000])
    mean = torch.from_numpy(Embeddings.load(embeddings).vectors.mean(0))
    with torch.inference_mode():
        torch.testing.assert_close(centred(voices, lengths), plain(voices, lengths) - mean)
    Embeddings(["a"], np.zeros((1, 3), np.float32)).save(tmp_path / "other")
    with pytest.raises(UserError, match="other: found 3 values an embedding, expected 8"):
        diarize_with(place, "--cohort", tmp_path / "other", wav(place, 0))


def test_diarize_options_reach_the_pipeline(place):
    arguments = ["--model", f"{place}/segmentation", "--speaker-model", f"{place}/speaker", "x.wav"]
    options = ["--num-speakers", "3", "--threshold", "0.4", "--window", "2", "--median", "5"]
    config = diarize.build_diarizer(diarize.parser().parse_args([*arguments, *options])).config
    assert (config.window, config.step, config.median) == (2.0, 0.5, 5)
    clustering = config.clustering
    assert (clustering.min_speakers, clustering.max_speakers, clustering.threshold) == (3, 3, 0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-speakers", "2", "--max-speakers", "3"], "--num-speakers beside"),
        (["--num-speakers", "0"], "min_speakers=0"),
        (["--threshold", "5"], "threshold is a cosine distance"),
        (["--step", "9"], "step=9.0, window=1.0"),
        (["--cuts", "x.jsonl"], "found --cuts without --output"),
    ],
)
def test_diarize_impossible_options(options, message, place):
    with pytest.raises(UserError, match=message):
        diarize_with(place, *options, *([] if "--cuts" in options else [wav(place, 0)]))


def test_lists_of_an_experiment_stay_apart(place, tmp_path):
    """Outputs lie in the experiment folder, beside training's own list."""
    (tmp_path / "skipped.jsonl").write_text("training's")
    bad, good = str(tmp_path / "none.wav"), wav(place, 0)
    embed.main(["--model", f"{place}/speaker", "--output", f"{tmp_path}/test.safetensors", bad, good])
    diarize_with(place, bad, good, "--output", tmp_path / "valid.rttm")
    diarize_with(place, good, "--output", tmp_path / "test.rttm")
    assert (tmp_path / "skipped.jsonl").read_text() == "training's"
    sizes = {path.name: len(path.read_text().splitlines()) for path in tmp_path.glob("*.skipped.jsonl")}
    expected = {"test.safetensors": 1, "valid.rttm": 1, "test.rttm": 0}
    assert sizes == {f"{name}.skipped.jsonl": count for name, count in expected.items()}


def test_timeline():
    turns = [Turn(0.0, 5.0, "speaker01"), Turn(4.0, 10.0, "speaker02"), Turn(9.0, 10.0, "speaker01")]
    assert list(diarize.timeline(turns, width=10)) == [
        "speaker01 #####....# 6.0 s",
        "speaker02 ....###### 6.0 s",
        "    0.00 -     5.00  speaker01",
        "    4.00 -    10.00  speaker02",
        "    9.00 -    10.00  speaker01",
    ]
    assert list(diarize.timeline([])) == ["nobody speaks"]

"""The train command: what it prints, writes, refuses and forgets."""

import json

import pytest
import yaml

import toolkit
from toolkit import config
from toolkit.bin import train
from toolkit.errors import UserError
from toolkit.tasks.asr import AsrConfig

CONFIG = """
task: asr
data:
  train: synthetic:5
  valid: synthetic:2
  sampler: {max_duration: 8, num_buckets: 2}
speech:
  encoder: {dim: 16, num_layers: 1, num_heads: 2, feed_forward_dim: 16, kernel_size: 3, subsampling_channels: 2}
train: {max_updates: 3, log_every: 1, checkpoint_every: 2}
"""


pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "asr.yaml"
    path.write_text(CONFIG)
    return str(path)


def run(recipe, folder, *settings):
    train.main(["--config", recipe, "--exp", str(folder), *settings])


def test_an_experiment_and_its_model_directory(recipe, tmp_path, capsys):
    folder = tmp_path / "exp"
    run(recipe, folder, "--optim.lr=1e-4")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "config.yaml",
        "checkpoints",
        "metrics.jsonl",
        "skipped.jsonl",
        "log.txt",
        "tensorboard",
        "model",
    }
    assert {path.name for path in (folder / "model").iterdir()} == {
        "config.yaml",
        "model.safetensors",
        "tokenizer.yaml",
        "tokens.txt",
    }
    assert (folder / "config.yaml").read_text() == (folder / "model" / "config.yaml").read_text()
    settings = config.load(AsrConfig, folder / "config.yaml")
    assert settings.optim.lr == 1e-4 and settings.train.max_updates == 3
    assert toolkit.load(folder / "model").config == settings
    assert f"model written to {folder / 'model'}" in capsys.readouterr().out
    # The resolved settings give the same run.
    run(str(folder / "config.yaml"), tmp_path / "again")
    for name in ("model.safetensors", "config.yaml", "tokens.txt"):
        assert (folder / "model" / name).read_bytes() == (tmp_path / "again" / "model" / name).read_bytes()


def test_every_setting_is_printed_with_its_meaning(recipe, capsys):
    train.main(["--config", recipe, "--print_config", "--seed=9"])
    printed = capsys.readouterr().out
    settings = config.build(AsrConfig, yaml.safe_load(printed), "printed")
    assert settings == config.load(AsrConfig, recipe, ["--seed=9"])
    assert "max_updates: 3" in printed and "# Updates in all." in printed
    assert "encoder:  # What turns features into representations. (name: conformer" in printed


def test_an_encoder_is_that_of_the_pretrained_model_where_none_is_described(recipe, tmp_path, capsys):
    run(recipe, tmp_path / "first", "--train.max_updates=1")
    model = tmp_path / "first" / "model"
    path = tmp_path / "silent.yaml"
    raw = yaml.safe_load(CONFIG)
    speech = raw.pop("speech")
    path.write_text(yaml.safe_dump(raw | {"init": {"model": str(model)}}))
    folder = tmp_path / "exp"
    run(str(path), folder, "--train.max_updates=2")
    run(str(path), folder)
    log = (folder / "log.txt").read_text()
    assert f"encoder from {model / 'model.safetensors'}" in log and "(update 2)" in log
    first, found = (config.load(AsrConfig, name / "config.yaml") for name in (tmp_path / "first", folder))
    assert found.speech == first.speech and found.speech.encoder.dim == speech["encoder"]["dim"]
    capsys.readouterr()
    train.main(["--config", str(path), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["speech"] == config.to_dict(first.speech)
    with pytest.raises(UserError, match="speech.encoder.dim: found 256, expected 16; .*num_layers: found 6"):
        run(str(path), tmp_path / "other", "--speech.encoder.name=conformer")
    with pytest.raises(UserError, match="none/config.yaml: no such file"):
        run(str(path), tmp_path / "other", "--init.model=none")


def test_going_on_and_beginning_anew(recipe, tmp_path, capsys):
    folder = tmp_path / "exp"
    run(recipe, folder)
    with pytest.raises(
        UserError, match=r"started with other settings \(seed was 0, is 5\); expected the same, "
    ):
        run(recipe, folder, "--seed=5")
    assert config.load(AsrConfig, folder / "config.yaml").seed == 0
    (folder / "notes.txt").write_text("the user's")
    run(recipe, folder, "--seed=5", "--restart")
    assert config.load(AsrConfig, folder / "config.yaml").seed == 5
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3] and (folder / "notes.txt").exists()
    assert "going on from" not in (folder / "log.txt").read_text()
    run(recipe, folder, "--seed=5", "--train.max_updates=4")
    assert "going on from" in (folder / "log.txt").read_text()


def test_what_a_start_without_a_checkpoint_left_is_made_anew(recipe, tmp_path):
    folder = tmp_path / "exp"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "tokens.txt").write_text("<blk> 0\n<unk> 1\n▁ 2\nq 3\n")
    (folder / ".lock").touch()
    run(recipe, folder)
    assert "q 3" not in (folder / "model" / "tokens.txt").read_text()


@pytest.mark.parametrize("restart", [[], ["--restart"]], ids=str)
@pytest.mark.parametrize(
    "names",
    [
        ["checkpoints/last.pt", "model/pytorch_model.bin", "config.yaml", "log.txt"],
        ["checkpoints/step-5.safetensors"],
        ["config.yaml"],
    ],
    ids=str,
)
def test_a_folder_of_another_program_is_left_as_it_is(recipe, tmp_path, names, restart):
    folder = tmp_path / "theirs"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("task: {name: theirs}\n")
    before = sorted(folder.rglob("*"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"theirs: found .* that this command did not write; expected a"):
            run(recipe, folder, *restart)
        assert sorted(folder.rglob("*")) == before
    assert all((folder / name).read_text() == "task: {name: theirs}\n" for name in names)


def test_beginning_anew_removes_only_what_a_run_writes(recipe, tmp_path):
    folder = tmp_path / "exp"
    run(recipe, folder)
    theirs = [
        folder / name for name in ("checkpoints/best.pt", "model/README.md", "tensorboard/notes", "failed/x")
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("the user's")
    (folder / ".lock").unlink()  # A copy of an experiment may lack it.
    run(recipe, folder, "--restart", "--train.max_updates=1")
    assert all(path.read_text() == "the user's" for path in theirs)
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-00000001.safetensors"]
    assert len(list((folder / "tensorboard").glob("events*"))) == 1


def test_the_configuration_in_the_folder_outlives_a_start_that_fails(recipe, tmp_path):
    folder = tmp_path / "exp"
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(CONFIG)
    with pytest.raises(UserError, match="none.jsonl: no such file"):
        run(str(path), folder, "--data.train=none.jsonl")
    assert path.read_text() == CONFIG


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "command line: --exp: found nothing, expected an experiment folder"),
        (["--exp", "{exp}", "--optim.rl=3"], "asr.yaml: unknown key optim.rl; nearest valid: optim.lr"),
        (["--exp", "{exp}", "--speach.encoder.dim=3"], "unknown key speach; nearest valid: speech"),
        (["--exp", "{exp}", "--task=cooking"], "task: found 'cooking', expected one of"),
        (["--exp", "{exp}", "what"], "command line: found 'what', expected --key.subkey=value"),
        (["--exp", "{exp}", "--data.train=none.jsonl"], "none.jsonl: no such file"),
        (["--exp", "{exp}", "--data.train="], "data.train: found nothing"),
        (["--exp", "{exp}", "--init.model=none"], "none/model.safetensors: no such file"),
        (
            ["--exp", "{exp}", "--data.sampler.min_seconds=20"],
            "found no cut that is 20.0 to 30.0 seconds long",
        ),
    ],
)
def test_mistakes(recipe, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        train.main(["--config", recipe, *(text.format(exp=tmp_path / "exp") for text in arguments)])


def test_data_that_cannot_be_read_ends_the_run(tmp_path, recipe):
    from toolkit.data.manifests import mono_cut, write_cuts

    write_cuts(
        tmp_path / "cuts.jsonl", [mono_cut(f"c{i}", f"none{i}.wav", 32000, text="a word") for i in range(9)]
    )
    with pytest.raises(UserError, match="found nothing to learn from in the last 20 updates"):
        run(recipe, tmp_path / "exp", f"--data.train={tmp_path / 'cuts.jsonl'}", "--train.max_updates=30")
    rows = [json.loads(line) for line in (tmp_path / "exp" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == [f"c{i}" for i in range(9)]
    assert all(row["reason"] == "missing: no such file" for row in rows)

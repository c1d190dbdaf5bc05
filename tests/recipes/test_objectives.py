"""The comparison of objectives in egs/mini: its configurations and its table."""

import importlib.util
import json

import pytest
import torch
import yaml

from tests.recipes.test_librispeech_ssl import run
from tests.train.test_objectives import deaf
from toolkit import config
from toolkit.models.base import SpeechEncoder
from toolkit.ssl.registry import OBJECTIVES
from toolkit.tasks.ssl import SslConfig, SslTask
from toolkit.train.distributed import World
from toolkit.train.log import whole_rows
from toolkit.train.loop import Trainer

FILES = ("hubert", "cosine", "wav2vec2", "best_rq", "data2vec")
LEARN = {"wav2vec2": (1500, []), "data2vec": (300, ["--objective.top_layers=3"])}
"""Updates in which an objective learns, and its settings for an encoder of 3 layers, where they are not (300, [])."""


@pytest.mark.parametrize("name", FILES)
def test_each_objective_fits_the_encoder(name, root):
    files = root / "egs/mini/objectives/conf"
    section = (files / f"{name}.yaml").read_text()
    settings = config.load(SslConfig, files / "pretrain.yaml", [f"--objective={section}"])
    objective = OBJECTIVES[settings.objective.name](settings.objective, SpeechEncoder(settings.speech))
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) < 500_000
    assert settings.objective.mask.span == 5


def test_no_objective_is_left_out(root):
    files = {path: yaml.safe_load(path.read_text()) for path in root.glob("egs/mini/objectives/conf/*.yaml")}
    found = {path.stem: content["name"] for path, content in files.items() if "task" not in content}
    assert sorted(found) == sorted(FILES)
    assert set(found.values()) == set(OBJECTIVES)


def test_recognition_has_the_encoder_of_pretraining(root):
    """What is compared differs in the objective alone."""
    files = root / "egs/mini/objectives/conf"
    settings = [config.read_yaml(files / f"{name}.yaml") for name in ("pretrain", "asr")]
    assert settings[0]["speech"] == settings[1]["speech"]


@pytest.fixture(scope="module")
def labels(root, tmp_path_factory):
    """Labels of the recipe's synthetic voices, by its own stages."""
    folder = tmp_path_factory.mktemp("mini")
    run(root, "mini/objectives", folder, "data", TOOLKIT_MINI_SOURCE="espeak")
    return folder / "exp/labels-1"


def learned(root, labels, name, folder, hears):
    """The loss on the validation set after a short training."""
    updates, changes = LEARN.get(name, (300, []))
    small = ("num_layers=3", "dim=96", "feed_forward_dim=384")
    overrides = [
        f"--objective={(root / f'egs/mini/objectives/conf/{name}.yaml').read_text()}",
        *(f"--data.{split}={labels}/{split}/cuts.jsonl.gz" for split in ("train", "valid")),
        *(f"--speech.encoder.{size}" for size in small),
        *("--train.average_decay=0", f"--train.max_updates={updates}", f"--train.valid_every={updates}"),
        *changes,
    ]
    settings = config.load(SslConfig, root / "egs/mini/objectives/conf/pretrain.yaml", overrides)
    task = SslTask(settings, folder / "model", 0)
    build = task.build_model
    task.build_model = build if hears else lambda: deaf(build())
    resolved, world = config.to_dict(settings), World(0, 1, torch.device("cpu"))
    folder.mkdir()
    Trainer(task, settings.train, settings.optim, resolved, 0, folder, world).run()
    (row,) = (row for row in whole_rows(folder / "metrics.jsonl") if row["split"] == "valid")
    assert row["step"] == updates
    return row["loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("name", FILES)
def test_the_loss_on_unseen_recordings_falls_below_that_of_frequencies(name, root, labels, tmp_path):
    """The same heads, trained without what the encoder makes of the audio, can learn but how frequent targets are."""
    losses = [learned(root, labels, name, tmp_path / str(hears), hears) for hears in (True, False)]
    assert losses[0] < 0.88 * losses[1]


def write(folder, name, **values):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.fixture
def table(root):
    """The script that writes it, as a module."""
    path = root / "egs/mini/objectives/local/table.py"
    spec = importlib.util.spec_from_file_location("objectives_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table(tmp_path, table, capsys):
    rates = {"wer": 0.8, "wer_low": 0.75, "wer_high": 0.85, "cer": 0.4, "p_one_sided": 0.0123}
    for name, difference in {"none": 0.0, "data2vec": -0.1}.items():
        bounds = {
            "wer_difference": difference,
            "wer_difference_low": difference - 0.05,
            "wer_difference_high": difference + 0.05,
        }
        write(tmp_path, f"{name}/decode/wer.json", **rates | bounds)
        write(tmp_path, f"{name}/probe.json", accuracy=0.5, accuracy_low=0.48, accuracy_high=0.52, layer=3)
    rows = [{"split": "train", "elapsed": 60.0}, {"split": "train", "elapsed": 150.0}, {"split": "valid"}]
    (tmp_path / "data2vec/pretrain").mkdir()
    (tmp_path / "data2vec/pretrain/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table.main(["--exp", str(tmp_path), "--out", str(tmp_path / "table.md"), "none", "data2vec"])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2] == "| none | 80.0 (75.0 to 85.0) | - | - | 40.0 | 50.0 (48.0 to 52.0) | 3 | - |"
    assert lines[3] == (
        "| data2vec 2.0 | 80.0 (75.0 to 85.0) | -10.0 (-15.0 to -5.0) | 0.0123 | 40.0 | 50.0 (48.0 to 52.0) | 3 | 2.5 |"
    )
    assert len(lines) == 4 and "data2vec 2.0" in capsys.readouterr().out

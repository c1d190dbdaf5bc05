"""The comparison of objectives in egs/mini: its configurations and its table."""

import importlib.util
import json

import pytest
import yaml

from toolkit import config
from toolkit.models.base import SpeechEncoder
from toolkit.ssl.registry import OBJECTIVES
from toolkit.tasks.ssl import SslConfig

FILES = ("hubert", "cosine", "wav2vec2", "best_rq", "data2vec")


@pytest.mark.parametrize("name", FILES)
def test_each_objective_fits_the_encoder(name, root):
    recipe = root / "egs/mini"
    section = (recipe / f"objectives/conf/{name}.yaml").read_text()
    settings = config.load(SslConfig, recipe / "conf/pretrain.yaml", [f"--objective={section}"])
    objective = OBJECTIVES[settings.objective.name](settings.objective, SpeechEncoder(settings.speech))
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) < 500_000
    assert settings.objective.mask.span == 5


def test_no_objective_is_left_out(root):
    files = (root / "egs/mini/objectives/conf").glob("*.yaml")
    found = {path.stem: yaml.safe_load(path.read_text())["name"] for path in files}
    assert sorted(found) == sorted(FILES)
    assert set(found.values()) == set(OBJECTIVES)


def test_recognition_is_that_of_the_main_recipe(root):
    """What is compared differs in the objective alone."""
    settings = [config.read_yaml(root / f"egs/mini/conf/{name}.yaml") for name in ("pretrain", "asr")]
    assert settings[0]["speech"] == settings[1]["speech"]


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

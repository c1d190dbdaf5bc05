"""Recognisers beside what is exported from them, by the script of egs/mini."""

import os

import pytest
import torch

from tests.tasks.small import SMALLER_ENCODER
from toolkit.bin import export
from toolkit.config import build
from toolkit.data.manifests import open_cuts, write_cuts
from toolkit.data.synthetic import synthetic_cuts
from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.load import save_model
from toolkit.text.tokenizer import CharTokenizer

MODELS, CUTS = os.environ.get("TOOLKIT_SHERPA_MODELS"), os.environ.get("TOOLKIT_SHERPA_CUTS")


def figures(local, folder, model, cuts):
    """What the script writes."""
    export.main(["--to", "sherpa", "--model", str(model), str(folder / "sherpa")])
    arguments = {"model": model, "sherpa": folder / "sherpa", "cuts": cuts, "json": folder / "figures.json"}
    local.sherpa_check.main([f"--{name}={value}" for name, value in arguments.items()])
    return read_json(folder / "figures.json")


def test_the_comparison(tmp_path, local, capsys):
    cuts = list(synthetic_cuts(4, folder=tmp_path))
    write_cuts(tmp_path / "cuts.jsonl", cuts)
    encoder = {"name": "conformer", **SMALLER_ENCODER}
    transducer = {"scale": 1.0, "predictor": {"name": "stateless", "dim": 8}, "joiner_dim": 8}
    settings = build(AsrConfig, {"speech": {"encoder": encoder}, "transducer": transducer}, "test")
    model = tmp_path / "model"
    CharTokenizer.learn(cut.supervisions[0].text for cut in cuts).save(model)
    recogniser = AsrTask(settings, model, 0).build_model()
    # Far from ties, which rounding decides.
    torch.nn.init.normal_(recogniser.ctc[1].weight, std=2.0)
    torch.nn.init.normal_(recogniser.transducer.joiner.output.weight, std=2.0)
    save_model(model, recogniser, settings)
    found = figures(local, tmp_path, model, tmp_path / "cuts.jsonl")
    assert list(found) == ["ctc", "transducer"]
    assert all(row["recordings"] == row["same"] == 4 for row in found.values())
    assert all(row["toolkit"] == row["float32"] > 0 for row in found.values())
    assert "ctc: the same tokens in 4 of 4 recordings; WER " in capsys.readouterr().out
    arguments = [f"--model={model}", f"--sherpa={model}", f"--cuts={tmp_path / 'cuts.jsonl'}"]
    with pytest.raises(UserError, match=r"found no model.onnx or encoder.onnx, expected"):
        local.sherpa_check.main(arguments)


@pytest.mark.slow
@pytest.mark.skipif(not (MODELS and CUTS), reason="TOOLKIT_SHERPA_MODELS and TOOLKIT_SHERPA_CUTS name none")
@pytest.mark.parametrize("model", (MODELS or "").split(":"))
def test_trained_models_on_real_recordings(tmp_path, local, model):
    """TOOLKIT_SHERPA_MODELS are model directories with colons between them, TOOLKIT_SHERPA_CUTS are what they hear."""
    assert len(list(open_cuts(CUTS))) >= 100
    found = figures(local, tmp_path, model, CUTS)
    assert found
    for row in found.values():
        assert row["same"] == row["recordings"]
        assert row["int8"] <= row["float32"] + 0.01

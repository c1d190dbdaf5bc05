"""Model directories of an encoder alone."""

import pytest
import torch

import toolkit
from tests.tasks.small import SMALLER_ENCODER
from toolkit.bin import train
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.encoder import EncoderConfig, EncoderTask
from toolkit.tasks.load import save_model

SPEECH = {"encoder": SMALLER_ENCODER}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(3)
    task = EncoderTask(build(EncoderConfig, {"speech": SPEECH}, "test"), tmp_path / "model", seed=0)
    save_model(tmp_path / "model", task.build_model(), task.config)
    return tmp_path / "model"


def test_it_loads_and_gives_features(folder):
    model = toolkit.load(folder)
    assert all(name.startswith("speech.") for name in model.state_dict())
    output = model.features(torch.randn(2, 8000), torch.tensor([8000, 4000]))
    assert output.frames.shape == (2, 13, 16) and len(output.layers) == 2


def test_other_tasks_begin_with_it(folder, tmp_path):
    raw = {"speech": SPEECH, "init": {"model": str(folder)}, "data": {"train": "synthetic:3"}}
    task = AsrTask(build(AsrConfig, raw, "test"), tmp_path / "asr", seed=0)
    task.prepare()
    model = task.build_model()
    task.initialize(model, print)
    expected = toolkit.load(folder).speech.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.speech.state_dict().items())
    raw["speech"] = {"encoder": SMALLER_ENCODER | {"num_heads": 4}}
    task = AsrTask(build(AsrConfig, raw, "test"), tmp_path / "asr", seed=0)
    with pytest.raises(UserError, match="speech.encoder.num_heads: found 4, expected 2 as in"):
        task.initialize(task.build_model(), print)


def test_it_is_not_trained(folder, tmp_path):
    with pytest.raises(
        UserError, match="task: found 'encoder', expected one of: ssl, asr, speaker, diarization"
    ):
        train.main(["--config", str(folder / "config.yaml"), "--exp", str(tmp_path / "exp")])
    assert not (tmp_path / "exp").exists()

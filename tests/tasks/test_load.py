"""Model directories: written, read back, refused."""

import pytest
import torch

import toolkit
from tests.tasks.small import SMALLER_ENCODER
from toolkit import checkpoint
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.tasks.load import load_task, load_task_and_model, save_model
from toolkit.tasks.ssl import SslConfig, SslTask

TINY = {"speech": {"encoder": SMALLER_ENCODER | {"num_layers": 2}}}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    task = SslTask(build(SslConfig, TINY, "test"), tmp_path, seed=0)
    save_model(tmp_path, task.build_model(), task.config)
    return tmp_path


def test_a_directory_gives_its_model(folder):
    model = toolkit.load(folder)
    assert not model.training and model.config.speech.encoder.dim == 16
    weights, _ = checkpoint.load(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    waveforms, lengths = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 4000])
    output = model.features(waveforms, lengths)
    assert output.frames.shape == (2, 13, 16) and len(output.layers) == 3
    assert not output.frames.requires_grad
    assert torch.equal(output.frames, toolkit.load(str(folder)).features(waveforms, lengths).frames)
    task, again = load_task_and_model(folder)
    assert isinstance(task, SslTask) and task.model_dir == folder
    assert torch.equal(again.features(waveforms, lengths).frames, output.frames)


def test_directories_that_are_none(tmp_path, folder):
    with pytest.raises(
        UserError, match="none: not a model directory, expected config.yaml and model.safetensors"
    ):
        toolkit.load(tmp_path / "none")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors: no such file"):
        toolkit.load(folder)


def test_damaged_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model.safetensors: damaged checkpoint"):
        toolkit.load(folder)


def test_weights_and_configuration_of_two_models(folder):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("num_layers: 2", "num_layers: 3"))
    with pytest.raises(UserError, match=r"weights of another model: \d+ missing \(speech.encoder.layers.2"):
        toolkit.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: cooking", "config.yaml: task: found 'cooking', expected one of: ssl, asr"),
        ("seed: 1", "config.yaml: task: found"),
        ("task: ssl\nsped: 3", "config.yaml: unknown key sped; nearest valid: seed"),
        ("task: [ssl", "config.yaml:1: not YAML"),
    ],
)
def test_damaged_configurations(folder, text, message):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_task(folder)

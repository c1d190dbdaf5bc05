"""The average command."""

import pytest
import torch

import toolkit
from toolkit import checkpoint
from toolkit.bin import average
from toolkit.config import build, save
from toolkit.errors import UserError
from toolkit.tasks.load import save_model
from toolkit.tasks.ssl import SslConfig, SslTask

TINY = {
    "speech": {
        "encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}
    }
}


@pytest.fixture
def experiment(tmp_path):
    """Three checkpoints of random weights, and the model directory of the last."""
    folder = tmp_path / "exp"
    task = SslTask(build(SslConfig, TINY, "test"), folder / "model", seed=0)
    for step in (10, 20, 30):
        torch.manual_seed(step)
        model = task.build_model()
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        checkpoint.save(checkpoint.step_path(folder / "checkpoints", step), tensors)
    save_model(folder / "model", model, task.config)
    save(task.config, folder / "config.yaml")
    (folder / "model" / "tokens.txt").write_text("a 0\n")
    (folder / "model" / "RESULTS.json").write_text("{}")
    (folder / "model" / ".model.safetensors.x.tmp").write_text("left by a process that died")
    return folder


def test_mean_of_the_last_checkpoints(experiment, tmp_path, capsys):
    output = tmp_path / "averaged"
    average.main(["--exp", str(experiment), "--last", "2", "--output", str(output)])
    assert "mean of step-00000020.safetensors, step-00000030.safetensors" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {"config.yaml", "model.safetensors", "tokens.txt"}
    paths = checkpoint.steps(experiment / "checkpoints")[-2:]
    first, second = (checkpoint.load(path)[0] for path in paths)
    for name, tensor in toolkit.load(output).state_dict().items():
        torch.testing.assert_close(tensor, (first[f"model.{name}"] + second[f"model.{name}"]) / 2)


@pytest.mark.parametrize("last", [0, 4])
def test_more_than_there_are(experiment, tmp_path, last):
    with pytest.raises(UserError, match=rf"--last: found {last}, expected 1 to 3, the checkpoints in "):
        average.main(["--exp", str(experiment), "--last", str(last), "--output", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_no_experiment(tmp_path):
    with pytest.raises(UserError, match="checkpoints: found no checkpoint, expected those of an experiment"):
        average.main(["--exp", str(tmp_path), "--output", str(tmp_path / "x")])

"""The export command, and converting from and to folders of Hugging Face's."""

import json
import shutil

import pytest
import torch

import toolkit
from tests.convert.fairseq_names import model_of, namespace
from tests.tasks.small import SMALLER_ENCODER
from toolkit.bin import convert, export
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.tasks.encoder import EncoderConfig, EncoderTask
from toolkit.tasks.load import save_model

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What transformers writes."""
    folder = tmp_path_factory.mktemp("hf") / "wavlm"
    model_of("wavlm", True).save_pretrained(folder)
    return folder


def test_to_a_model_directory_and_back(tmp_path, folder, capsys):
    convert.main(["--from", "hf", str(folder), str(tmp_path / "model")])
    export.main(["--to", "hf", "--model", str(tmp_path / "model"), str(tmp_path / "back")])
    assert capsys.readouterr().out.endswith(
        "back: config.json, model.safetensors, preprocessor_config.json\n"
    )
    first, second = (
        transformers.AutoModel.from_pretrained(path).eval() for path in (folder, tmp_path / "back")
    )
    assert type(first) is type(second)
    weights = second.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.state_dict().items())
    waveforms = torch.randn(1, 900)
    assert torch.equal(first(waveforms).last_hidden_state, second(waveforms).last_hidden_state)


def test_from_fairseq_to_hugging_face(tmp_path):
    model = model_of("hubert", False)
    torch.save(namespace(model, normalize=True), tmp_path / "x.pt")
    convert.main(["--from", "fairseq", str(tmp_path / "x.pt"), str(tmp_path / "model")])
    export.main(["--to", "hf", "--model", str(tmp_path / "model"), str(tmp_path / "out")])
    waveforms = torch.randn(1, 900)
    found = transformers.HubertModel.from_pretrained(tmp_path / "out").eval()(waveforms).last_hidden_state
    assert torch.equal(found, model(waveforms).last_hidden_state)
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["do_normalize"] is True


def test_an_output_that_holds_something(tmp_path, folder):
    convert.main(["--from", "hf", str(folder), str(tmp_path / "model")])
    with pytest.raises(UserError, match="model: found config.yaml, model.safetensors, expected a new folder"):
        export.main(["--to", "hf", "--model", str(tmp_path / "model"), str(tmp_path / "model")])


def test_encoders_that_the_other_program_does_not_have(tmp_path):
    task = EncoderTask(
        build(EncoderConfig, {"speech": {"encoder": SMALLER_ENCODER}}, "test"), tmp_path, seed=0
    )
    save_model(tmp_path / "model", task.build_model(), task.config)
    with pytest.raises(
        UserError, match="found front end 'fbank' and encoder 'conformer', expected 'waveform'"
    ):
        export.main(["--to", "hf", "--model", str(tmp_path / "model"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="not a model directory"):
        export.main(["--to", "hf", "--model", str(tmp_path), str(tmp_path / "out")])


def changed(folder, target, **changes):
    """A copy of the folder with another config.json."""
    shutil.copytree(folder, target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | changes))
    return str(target)


def test_folders_that_are_none(tmp_path, folder):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="none/config.json: no such file"):
        convert.main(["--from", "hf", str(tmp_path / "none"), out])
    with pytest.raises(UserError, match="model_type: found 'bert', expected one of"):
        convert.main(["--from", "hf", changed(folder, tmp_path / "bert", model_type="bert"), out])
    deep = changed(folder, tmp_path / "deep", num_hidden_layers=4)
    with pytest.raises(
        UserError, match=r"deep: weights of another model: \d+ missing \(speech.encoder.layers.3"
    ):
        convert.main(["--from", "hf", deep, out])
    with pytest.raises(UserError, match="wavlm: found a folder, expected a checkpoint"):
        convert.main(["--from", "fairseq", str(folder), out])
    for option in (["--set", "a=1"], ["--average"]):
        with pytest.raises(UserError, match=f"{option[0]}: found with --from hf"):
            convert.main(["--from", "hf", str(folder), out, *option])
    path = folder / "model.safetensors"
    copy = changed(folder, tmp_path / "short")
    (tmp_path / "short" / "model.safetensors").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors: damaged checkpoint"):
        convert.main(["--from", "hf", copy, out])
    (tmp_path / "short" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="short: found no weights, expected model.safetensors or"):
        convert.main(["--from", "hf", copy, out])
    assert not (tmp_path / "out").exists()


def test_missing_layers_may_be_allowed(tmp_path, folder):
    deep = changed(folder, tmp_path / "deep", num_hidden_layers=4)
    convert.main(["--from", "hf", deep, str(tmp_path / "out"), "--allow-missing"])
    assert toolkit.load(tmp_path / "out").speech.num_layers == 4

"""The convert command: what it writes, what it leaves out, what it refuses."""

import argparse
import re

import pytest
import torch

import toolkit
from tests.models.small_zipformer import make_encoder
from toolkit.bin import convert
from toolkit.bin._output import counted
from toolkit.convert.icefall import MODULES
from toolkit.errors import UserError

THEIRS = {ours: theirs for theirs, ours in MODULES.items()}
SIZES = ["num_heads=2", "encoder_unmasked_dim=16,16,12", "feature_dim=16"]
SET = [word for size in SIZES for word in ("--set", size)]


def icefall_name(name):
    """icefall's name for a parameter of a Zipformer without anything in front."""
    if match := re.fullmatch(r"stacks\.(\d+)\.layers\.(\d+)\.(.+)", name):
        stack, layer, inner = match.groups()
        module, _, kind = inner.rpartition(".")
        inner = THEIRS[inner] if inner in THEIRS else f"{THEIRS[module]}.{kind}"
        return f"encoder.encoders.{stack}.{'' if stack == '0' else 'encoder.'}layers.{layer}.{inner}"
    name = re.sub(r"stacks\.(\d+)\.downsample\.logits", r"encoders.\1.downsample.bias", name)
    name = re.sub(r"stacks\.(\d+)\.combine\.scale", r"encoders.\1.out_combiner.bypass_scale", name)
    return "encoder." + name.replace("downsample_output.logits", "downsample_output.bias")


@pytest.fixture
def encoder():
    return make_encoder(embed="none")


@pytest.fixture
def state(encoder):
    """Its weights under icefall's names, and a recogniser's heads."""
    found = {
        icefall_name(name): tensor.squeeze(-1) if tensor.ndim == 4 else tensor
        for name, tensor in encoder.state_dict().items()
        if name != "mask_embedding"
    }
    heads = {"decoder.embedding.weight": torch.zeros(2, 2), "joiner.output_linear.bias": torch.zeros(2)}
    unused = {"encoder.encoders.0.layers.0.bypass_scale": torch.zeros(16)}
    return {**found, **heads, **unused}


def written(path, state, **more):
    torch.save({"model": state, **more}, path)
    return str(path)


def same(encoder, folder):
    """Whether the model directory holds the encoder."""
    found = toolkit.load(folder).speech.encoder.state_dict()
    names = [name for name in encoder.state_dict() if name != "mask_embedding"]
    return all(torch.equal(found[name], encoder.state_dict()[name]) for name in names)


def test_icefall(tmp_path, capsys, encoder, state):
    path = written(tmp_path / "epoch-1.pt", state, exp_dir=tmp_path, optimizer={"state": {0: torch.zeros(2)}})
    out = tmp_path / "model"
    convert.main(["--from", "icefall", path, str(out), *SET])
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"model: zipformer, \d layers of 24, 0.\d+ M parameters, a frame every \d+ ms", first)
    assert second.startswith(
        "left out: decoder.embedding.weight, joiner.output_linear.bias, encoder.encoders.0."
    )
    assert {path.name for path in out.iterdir()} == {"config.yaml", "model.safetensors"}
    assert same(encoder, out)
    output = toolkit.load(out).features(torch.randn(2, 16000), torch.tensor([16000, 9000]))
    assert len({layer.shape for layer in output.layers}) == 1 and output.frames.isfinite().all()


def test_settings_of_the_training_stand_in_the_file(tmp_path, encoder, state):
    own = {"num_heads": "2", "encoder_unmasked_dim": "16,16,12", "feature_dim": 16, "start_epoch": 1}
    path = written(tmp_path / "x.pt", state, params=argparse.Namespace(num_heads=3), **own)
    convert.main(["--from", "icefall", path, str(tmp_path / "model")])
    assert same(encoder, tmp_path / "model")
    with pytest.raises(UserError, match=r"x.pt: num_heads: found \[3, 3, 3\], expected divisors"):
        convert.main(["--from", "icefall", path, str(tmp_path / "other"), "--set", "num_heads=3"])


def test_the_average_is_taken_where_it_is_asked_for(tmp_path, encoder, state):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    path = written(tmp_path / "x.pt", zeros, model_avg={n: t.double() for n, t in state.items()})
    convert.main(["--from", "icefall", path, str(tmp_path / "a"), "--average", *SET])
    convert.main(["--from", "icefall", path, str(tmp_path / "b"), *SET])
    assert same(encoder, tmp_path / "a") and not same(encoder, tmp_path / "b")
    path = written(tmp_path / "y.pt", state)
    with pytest.raises(UserError, match="y.pt: found no model_avg, expected a checkpoint of a training"):
        convert.main(["--from", "icefall", path, str(tmp_path / "c"), "--average", *SET])


def test_missing_and_extra_weights_are_listed_and_refused(tmp_path, capsys, encoder, state):
    gone = "encoder.encoders.0.layers.0.feed_forward1.in_proj.weight"
    state = {name: tensor for name, tensor in state.items() if name != gone}
    state |= {f"mystery.{index}": torch.zeros(1) for index in range(6)}
    path = written(tmp_path / "x.pt", state)
    arguments = ["--from", "icefall", path, str(tmp_path / "model"), *SET]
    with pytest.raises(UserError) as caught:
        convert.main(arguments)
    expanded = "speech.encoder.stacks.0.layers.0.feed_forward1.expand.weight"
    missing = f"1 missing ({expanded}), --allow-missing takes it"
    extra = "6 extra (mystery.0, mystery.1, mystery.2, mystery.3, ... (6 in all)), --allow-extra takes it"
    assert missing in str(caught.value) and extra in str(caught.value)
    listed = capsys.readouterr().err.splitlines()
    assert listed[:2] == ["missing, by the names of the toolkit:", f"  {expanded}"]
    assert listed[2:] == [f"extra, by the names of {path}:", *(f"  mystery.{index}" for index in range(6))]
    for allowed in ("--allow-missing", "--allow-extra"):
        with pytest.raises(UserError, match="weights of another model: . (missing|extra)"):
            convert.main([*arguments, allowed])
    assert not (tmp_path / "model").exists()
    convert.main([*arguments, "--allow-missing", "--allow-extra"])
    assert f"missing, by the names of the toolkit:\n  {expanded}\n" in capsys.readouterr().err
    assert toolkit.load(tmp_path / "model").speech.num_layers == 3


def test_a_weight_of_another_shape_is_refused_whatever_is_allowed(tmp_path, state):
    name = "encoder.encoders.0.layers.0.feed_forward1.in_proj.bias"
    path = written(tmp_path / "x.pt", {**state, name: torch.zeros(3)})
    with pytest.raises(
        UserError, match=r"x.pt: weights of another model: 1 of another shape \(speech.encoder"
    ):
        convert.main(
            ["--from", "icefall", path, str(tmp_path / "m"), *SET, "--allow-missing", "--allow-extra"]
        )


def test_an_output_that_holds_something(tmp_path, state):
    path = written(tmp_path / "x.pt", state)
    out = tmp_path / "model"
    out.mkdir()
    convert.main(["--from", "icefall", path, str(out), *SET])
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="model: found config.yaml, model.safetensors, expected a new folder"):
        convert.main(["--from", "icefall", path, str(out), *SET])
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="x.pt: found a file, expected a new folder to write"):
        convert.main(["--from", "icefall", path, path, *SET])


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            "icefall",
            {"other.weight": torch.zeros(2)},
            "x.pt: checkpoint: found no name like encoder.encoders.0",
        ),
        ("fairseq", {"other.weight": torch.zeros(2)}, r"x.pt: found no encoder.layers.0.fc1.weight"),
        ("fairseq", {}, "x.pt: found model, expected weights at the top or under model"),
    ],
)
def test_other_architectures(tmp_path, kind, content, message):
    path = written(tmp_path / "x.pt", content)
    with pytest.raises(UserError, match=message):
        convert.main(["--from", kind, path, str(tmp_path / "model")])
    assert not (tmp_path / "model").exists()


def test_inputs_of_the_wrong_kind(tmp_path, state):
    path = written(tmp_path / "x.pt", state)
    for kind in ("icefall", "fairseq"):
        with pytest.raises(UserError, match="found a folder, expected a checkpoint"):
            convert.main(["--from", kind, str(tmp_path), str(tmp_path / "model")])
    with pytest.raises(UserError, match="x.pt: found no encoder.layers.0.fc1.weight"):
        convert.main(["--from", "fairseq", path, str(tmp_path / "model")])


def test_the_width_of_features_that_shapes_have_is_asked_for(tmp_path, state):
    path = written(tmp_path / "x.pt", state)
    message = r"x.pt: feature_dim: not given, .* is 80, expected 16 as .* have it \(--set feature_dim=N\)"
    with pytest.raises(UserError, match=message):
        convert.main(["--from", "icefall", path, str(tmp_path / "model"), *SET[:-2]])


@pytest.mark.parametrize("text", ["num_heads", "=3", "num_heads="])
def test_settings_that_are_none(tmp_path, state, text):
    path = written(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match=f"--set: found '{text}', expected KEY=VALUE"):
        convert.main(["--from", "icefall", path, str(tmp_path / "model"), "--set", text])


@pytest.mark.parametrize("source", ["icefall", "fairseq"])
def test_settings_that_nothing_looks_at(tmp_path, state, source):
    path = written(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match="--set: found 'normalise', expected one of: .*normalize"):
        convert.main(["--from", source, path, str(tmp_path / "model"), "--set", "normalise=true"])


def test_counts_are_told_in_singular_and_plural():
    assert [counted(number, "layer") for number in (0, 1, 12)] == ["0 layers", "1 layer", "12 layers"]


def test_option_values():
    assert convert.option("a=1,2,3") == ("a", [1, 2, 3])
    assert convert.option("causal=true") == ("causal", True) and convert.option("a=x{") == ("a", "x{")

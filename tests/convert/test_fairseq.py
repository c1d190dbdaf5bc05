"""fairseq's checkpoints, in all the forms that its versions wrote, become the models that they were."""

import argparse

import pytest
import torch

from tests.convert.fairseq_names import LAYERS, fairseq_state, heads, model_of, namespace, options
from toolkit.config import build
from toolkit.convert.fairseq import fairseq_options, read_fairseq, to_hf
from toolkit.convert.safe import read_checkpoint
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder

pytest.importorskip("transformers")

KINDS = ["hubert", "wavlm", "data2vec"]


def same_as(model, state, config):
    """Whether transformers, given the configuration and the weights, computes what the model does."""
    config = type(model.config)(**{key: value for key, value in config.items() if key != "model_type"})
    other = type(model)(config).eval()
    other.load_state_dict(state)
    waveforms = torch.randn(2, 900)
    expected = model(waveforms, output_hidden_states=True).hidden_states
    found = other(waveforms, output_hidden_states=True).hidden_states
    return all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_namespace_in_the_file(tmp_path, kind, large):
    model = model_of(kind, large)
    torch.save(namespace(model, normalize=large), tmp_path / "x.pt")
    content = read_checkpoint(tmp_path / "x.pt")
    config, state, left_out = to_hf(content["model"], fairseq_options(content))
    assert set(state) == set(model.state_dict()) and set(left_out) == set(heads())
    assert same_as(model, state, config)
    assert config["do_normalize"] is large and config["layerdrop"] == 0.05
    assert config["model_type"] == model.config.model_type


def test_options_in_one_level_or_two(tmp_path):
    model = model_of("hubert", False)
    plain = options(model)
    unilm = {"cfg": {**plain, "normalize": True}}
    hydra = {"cfg": {"model": plain, "task": {"normalize": True}, "dataset": {}}, "args": None}
    tuned = {
        "cfg": {
            "model": {
                "w2v_args": {"model": plain, "task": {"normalize": False}},
                "dropout": 0.0,
                "normalize": "${task.normalize}",
            },
            "task": {"normalize": True},
        }
    }
    early = {
        "args": argparse.Namespace(w2v_args=argparse.Namespace(**plain), normalize=True, arch="wav2vec_ctc")
    }
    for content in (unilm, hydra, tuned, early):
        torch.save(content, tmp_path / "x.pt")
        found = fairseq_options(read_checkpoint(tmp_path / "x.pt"))
        assert found["normalize"] is True and found["conv_feature_layers"] == LAYERS
        assert found["encoder_attention_heads"] == 2
    assert fairseq_options({"model": {}}) == {}


def test_the_encoder_inside_a_recogniser():
    model = model_of("wav2vec2", False)
    prefix = "w2v_encoder.w2v_model."
    own = {"w2v_encoder.proj.weight": torch.zeros(30, 16), "w2v_encoder.proj.bias": torch.zeros(30)}
    _, state, left_out = to_hf({**fairseq_state(model, prefix), **own}, options(model))
    assert set(state) == set(model.state_dict()) and left_out == list(own)


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
@pytest.mark.parametrize("kind", [*KINDS, "wav2vec2"])
def test_converted_models_compute_the_same(kind, large):
    model = model_of(kind, large)
    speech, weights, _ = read_fairseq(fairseq_state(model), {**options(model), "normalize": large})
    ours = SpeechEncoder(build(SpeechConfig, speech, "test")).eval()
    ours.load_state_dict(weights)
    waveforms = torch.randn(2, 900)
    found = ours(waveforms, torch.tensor([900, 900]))
    if large:
        waveforms = torch.nn.functional.layer_norm(waveforms, (900,), eps=1e-7)
    expected = model(waveforms, output_hidden_states=True)
    torch.testing.assert_close(found.frames, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    for one, other in zip(found.layers[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def changed(**changes):
    return {**options(model_of("hubert", False)), **changes}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            changed(conv_feature_layers="[(8,10,5)] * 3"),
            r"conv_feature_layers: found .* expected channels and kernels",
        ),
        (
            changed(conv_feature_layers="__import__('os').system('true')"),
            "conv_feature_layers: found .*__import__",
        ),
        (changed(encoder_attention_heads=3), "encoder_attention_heads: found 3, expected a divisor of 16"),
        (changed(encoder_attention_heads="two"), "encoder_attention_heads: found 'two'"),
        (changed(activation_fn="relu"), "activation_fn: found 'relu', expected 'gelu'"),
        (changed(layer_type="conformer"), "layer_type: found 'conformer', expected 'transformer'"),
        (changed(normalize="maybe"), "normalize: found 'maybe', expected true or false"),
        ({}, "found no encoder_attention_heads among its options"),
    ],
)
def test_options_that_do_not_fit(given, message):
    with pytest.raises(UserError, match=message):
        to_hf(fairseq_state(model_of("hubert", False)), given)


def test_other_models():
    model = model_of("data2vec", False)
    with pytest.raises(UserError, match="layer_norm_first: found True, expected False for data2vec"):
        to_hf(fairseq_state(model), {**options(model), "layer_norm_first": True})
    with pytest.raises(
        UserError, match=r"found no encoder.layers.0.fc1.weight .*expected HuBERT, wav2vec 2.0"
    ):
        to_hf({"decoder.layers.0.weight": torch.zeros(2)}, {})
    state = fairseq_state(model_of("hubert", False))
    batch_norm = {name: t for name, t in state.items() if "pos_conv" not in name}
    with pytest.raises(UserError, match="found no encoder.pos_conv.0.weight_v"):
        to_hf(batch_norm, options(model_of("hubert", False)))

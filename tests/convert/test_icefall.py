"""icefall's checkpoints: every name finds its place, sizes come from shapes, what is missing is said."""

import re

import pytest
import torch

from tests.models.small_zipformer import make_config
from toolkit.config import build
from toolkit.convert.conv_layers import parse_layers
from toolkit.convert.icefall import EMBED, MODULES, read_icefall
from toolkit.errors import UserError
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.waveform import WaveformFrontendConfig

SETTINGS = {
    "num_heads": "2",
    "encoder_unmasked_dim": "16,16,12",
    "chunk_size": "8,16,-1",
    "left_context_frames": [16, -1],
}


def theirs(name, tensor, kind):
    """One of our weights as icefall names and shapes it."""
    outer = "encoder." if kind == "tuned" else ""
    if match := re.fullmatch(r"frontend\.(convs|norms)\.(\d+)\.(norm\.)?(weight|bias)", name):
        part = "2.1" if match[1] == "norms" else "2" if match[3] else "0"
        return f"{outer}feature_extractor.conv_layers.{match[2]}.{part}.{match[4]}", tensor
    name = name.removeprefix("encoder.")
    if match := re.fullmatch(r"(embed_norm|project)\.(.*)", name):
        return (
            f"{outer}{ {'embed_norm': 'layer_norm', 'project': 'post_extract_proj'}[match[1]] }.{match[2]}",
            tensor,
        )
    if name == "mask_embedding":
        return f"{outer}mask_emb", tensor
    if name.startswith("subsample."):
        module, _, end = name.removeprefix("subsample.").rpartition(".")
        if module in ("convnext.expand", "convnext.out") and end == "weight":
            tensor = tensor[:, :, None, None]
        if (module, end) == ("out", "weight"):
            tensor = tensor.unflatten(1, (-1, 128)).transpose(1, 2).flatten(1)
        return f"encoder_embed.{ {ours: old for old, ours in EMBED.items()}[module] }.{end}", tensor
    if match := re.fullmatch(r"stacks\.(\d+)\.layers\.(\d+)\.(.*)", name):
        inner = "" if match[1] == "0" else "encoder."
        back = {ours: old for old, ours in MODULES.items()}
        module, _, end = match[3].rpartition(".")
        new = back.get(match[3]) or f"{back[module]}.{end}"
        if "depthwise" in module and end == "weight":
            tensor = tensor[:, :, :, 0]
        return f"{outer}encoder.encoders.{match[1]}.{inner}layers.{match[2]}.{new}", tensor
    name = name.replace("downsample_output.logits", "downsample_output.bias").replace("stacks.", "encoders.")
    name = name.replace("downsample.logits", "downsample.bias").replace(
        "combine.scale", "out_combiner.bypass_scale"
    )
    return f"{outer}encoder.{name}", tensor


def make(kind, causal=False):
    """A speech encoder and its weights as a checkpoint of icefall."""
    torch.manual_seed(0)
    if kind == "asr":
        speech = SpeechEncoder(SpeechConfig(encoder=make_config(causal=causal, output_downsampling=2)))
    else:
        frontend = WaveformFrontendConfig(dims=[6] * 7, norm="layer" if kind == "tuned" else "group")
        config = make_config(embed="linear", output_downsampling=1)
        speech = SpeechEncoder(SpeechConfig(frontend=frontend, encoder=config))
    state = dict(theirs(name, tensor, kind) for name, tensor in speech.state_dict().items())
    if kind == "asr":
        del state["mask_emb"]
    return speech, state | {"decoder.embedding.weight": torch.zeros(3, 2)}


@pytest.mark.parametrize(
    ("kind", "causal"), [("asr", False), ("asr", True), ("ssl", False), ("tuned", False)]
)
def test_round_trip(kind, causal):
    speech, state = make(kind, causal)
    settings = SETTINGS | {"conv_feature_layers": "[(6,10,5)] + [(6,3,2)] * 4 + [(6,2,2)] * 2"}
    settings |= {"do_normalize": False, "dropout_input": 0.25}
    converted = read_icefall(state, settings)
    assert converted.left_out == ["decoder.embedding.weight"]
    config = build(SpeechConfig, converted.speech, "converted")
    assert config.encoder.stacks == speech.config.encoder.stacks
    assert (config.encoder.embed, config.encoder.causal) == (speech.config.encoder.embed, causal)
    assert config.frontend.normalize is False
    if causal:
        assert (config.encoder.chunk_sizes, config.encoder.left_contexts) == ([8, 16, -1], [16, -1])
    if kind != "asr":
        assert config.encoder.input_dropout == 0.25 and config.frontend.norm == speech.config.frontend.norm
    loaded = SpeechEncoder(config)
    loaded.load_state_dict(converted.weights)
    for name, tensor in loaded.state_dict().items():
        expected = speech.state_dict()[name]
        assert torch.equal(tensor, torch.zeros(16) if kind == "asr" and "mask_emb" in name else expected), (
            name
        )


def test_defaults_are_taken_where_they_fit():
    config = make_config(
        dims=[64], unmasked_dims=[64], num_heads=[2, 4, 2], query_head_dims=[32], value_head_dims=[12]
    )
    speech = SpeechEncoder(SpeechConfig(encoder=config))
    state = dict(theirs(name, tensor, "asr") for name, tensor in speech.state_dict().items())
    found = build(SpeechConfig, read_icefall(state, {"encoder_unmasked_dim": 64}).speech, "converted").encoder
    assert found.stacks == config.stacks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": None}, "num_heads: not given, and icefall's defaults do not fit"),
        (
            {"encoder_unmasked_dim": None},
            "encoder_unmasked_dim: not given, and icefall's default does not fit",
        ),
        ({"encoder_unmasked_dim": 999}, r"encoder_unmasked_dim: found \[999, 999, 999\], expected at most"),
        ({"num_heads": "3"}, r"num_heads: found \[3, 3, 3\], expected divisors of \[8, 8, 8\]"),
        ({"num_heads": "2,2"}, "num_heads: found '2,2', expected one number or 3"),
        ({"num_heads": "two"}, "num_heads: found 'two', expected whole numbers with commas between"),
        ({"num_heads": 1.5}, "num_heads: found 1.5, expected whole numbers"),
        ({"num_heads": [2, 2.0, 2]}, r"num_heads: found \[2, 2.0, 2\], expected whole numbers"),
        ({"num_heads": True}, "num_heads: found True, expected whole numbers"),
        ({"value_head_dim": "5"}, r"value_head_dim: found \[5, 5, 5\], expected \[4, 4, 4\]"),
        ({"num_heads": 0}, r"num_heads: found \[0, 0, 0\], expected at least 1"),
        ({"num_heads": None, "query_head_dim": 0}, r"query_head_dim: found \[0, 0, 0\], expected at least 1"),
        ({"feature_dim": "40,40"}, "feature_dim: found '40,40', expected one number"),
        ({"feature_dim": 40}, "feature_dim: found 40, expected 79 or 80 or 81 or 82 as the checkpoint"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    _, state = make("asr")
    given = SETTINGS | settings
    with pytest.raises(UserError, match=message):
        read_icefall(state, {name: value for name, value in given.items() if value is not None})


def test_heads_may_be_told_by_their_width():
    speech, state = make("asr")
    settings = {"query_head_dim": 4, "encoder_unmasked_dim": "16,16,12"}
    found = build(SpeechConfig, read_icefall(state, settings).speech, "converted").encoder
    assert found.stacks == speech.config.encoder.stacks


def test_another_model():
    with pytest.raises(UserError, match="expected a Zipformer of icefall"):
        read_icefall({"decoder.weight": torch.zeros(2)}, {})


def test_front_end_layers():
    usual = parse_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    assert usual == [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    assert parse_layers("[(4, 3, 2), (5, 2, 1)]") == [(4, 3, 2), (5, 2, 1)]
    with pytest.raises(UserError, match="conv_feature_layers: found"):
        parse_layers("__import__('os')")
    with pytest.raises(UserError, match="expected at most 100 layers"):
        parse_layers("[(512,10,5)] * 1000000000000")


def test_a_front_end_that_is_not_as_told():
    _, state = make("ssl")
    with pytest.raises(UserError, match="conv_feature_layers: found .* as in the checkpoint"):
        read_icefall(state, SETTINGS)
    fitting = SETTINGS | {"conv_feature_layers": "[(6,10,5)] + [(6,3,2)] * 4 + [(6,2,2)] * 2"}
    with pytest.raises(UserError, match="do_normalize: found 'false', expected true or false"):
        read_icefall(state, fitting | {"do_normalize": "false"})
    state["feature_extractor.gate.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match="found feature_extractor.gate.weight"):
        read_icefall(state, SETTINGS)

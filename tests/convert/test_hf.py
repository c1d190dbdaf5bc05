"""Hugging Face's folders: every form in which weights come, and what cannot be converted."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
    WavLMConfig,
    WavLMForCTC,
)

from toolkit import config
from toolkit.convert.hf import DEFAULTS, from_hf, read_hf
from toolkit.errors import UserError
from toolkit.export.hf import write_hf
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.hugging_face import settings_of
from toolkit.models.transformer import TransformerConfig
from toolkit.models.waveform import WaveformFrontendConfig

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
PRETRAINING = ("project_hid", "project_q", "quantizer.weight_proj")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HubertModel(HubertConfig(**SIZES))


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def expected(folder):
    return read_hf(folder)


def same(found, expected):
    assert found.speech == expected.speech and found.weights.keys() == expected.weights.keys()
    return all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_several_files_with_an_index(model, expected, tmp_path):
    model.save_pretrained(tmp_path / "parts", max_shard_size="10kB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert same(read_hf(tmp_path / "parts"), expected)


def test_weights_of_torch_save_with_names_of_before(folder, expected):
    tensors = load_file(folder / "model.safetensors")
    conv = "encoder.pos_conv_embed.conv."
    tensors[f"{conv}weight_g"] = tensors.pop(f"{conv}parametrizations.weight.original0")
    tensors[f"{conv}weight_v"] = tensors.pop(f"{conv}parametrizations.weight.original1")
    (folder / "model.safetensors").unlink()
    prefixed = {f"hubert.{name}": tensor for name, tensor in tensors.items()}
    for content in (prefixed, {"state_dict": prefixed, "epoch": 3}, {"model": prefixed}):
        torch.save(content, folder / "pytorch_model.bin")
        assert same(read_hf(folder), expected)
    torch.save({"net": prefixed}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin: found net, expected weights at the top or under"):
        read_hf(folder)


@pytest.mark.parametrize(
    ("cls", "settings", "left_out"),
    [
        (HubertForCTC, HubertConfig, {"lm_head.bias", "lm_head.weight"}),
        (WavLMForCTC, WavLMConfig, {"lm_head.bias", "lm_head.weight"}),
        (
            Wav2Vec2ForPreTraining,
            Wav2Vec2Config,
            {"quantizer.codevectors"}
            | {f"{name}.{kind}" for name in PRETRAINING for kind in ("weight", "bias")},
        ),
    ],
)
def test_heads_are_left_out(cls, settings, left_out, tmp_path):
    model = cls(settings(**SIZES))
    model.save_pretrained(tmp_path)
    converted = read_hf(tmp_path)
    assert set(converted.left_out) == left_out
    found = converted.weights["encoder.project.weight"]
    assert torch.equal(found, model.base_model.feature_projection.projection.weight)


def test_half_precision_becomes_single(folder, model, expected):
    model.half().save_pretrained(folder)
    model.float()
    converted = read_hf(folder)
    for name, tensor in converted.weights.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected.weights[name], atol=1e-3, rtol=1e-3)


def test_the_preprocessor_says_whether_to_normalize(folder):
    assert read_hf(folder).speech["frontend"]["normalize"] is True
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert read_hf(folder).speech["frontend"]["normalize"] is False


def test_defaults_are_those_of_transformers():
    for cls in (HubertConfig, Wav2Vec2Config, WavLMConfig, Data2VecAudioConfig):
        theirs = cls().to_dict()
        for key in {**settings_of(cls.model_type)[0], **settings_of(cls.model_type)[1]}:
            value = theirs[key]
            special = {"num_conv_pos_embeddings": 5} if cls is Data2VecAudioConfig else {}
            ours = {**DEFAULTS, **special}[key]
            assert ours == (list(value) if isinstance(value, tuple) else value), (cls, key)


def test_models_that_mask_nothing(tmp_path):
    model = HubertModel(HubertConfig(**SIZES, mask_time_prob=0.0))
    assert "masked_spec_embed" not in model.state_dict()
    model.save_pretrained(tmp_path)
    assert not read_hf(tmp_path).weights["encoder.mask_embedding"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "whisper"},
            "config.json: model_type: found 'whisper', expected one of hubert, wav2vec2",
        ),
        ({"hidden_act": "relu"}, "config.json: hidden_act: found 'relu', expected 'gelu'"),
        ({"add_adapter": True}, "config.json: add_adapter: found True, expected False"),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm: found False, expected True"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm: found True, expected False"),
        ({"num_attention_heads": "two"}, "num_heads: found 'two', expected int"),
        ({"num_attention_heads": 5}, "dim must be a multiple of num_heads, got 16 and 5"),
    ],
)
def test_what_does_not_fit_is_refused(folder, changes, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        read_hf(folder)


@pytest.mark.parametrize(
    "content", [[], {}, {"weight_map": [1]}, {"weight_map": {"a": "../model.safetensors"}}]
)
def test_an_index_of_files_of_this_folder_only(folder, content):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"model.safetensors.index.json: .*expected a mapping"):
        read_hf(folder)


def test_a_preprocessor_that_is_none(folder):
    (folder / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(UserError, match="preprocessor_config.json: found list, expected a mapping"):
        read_hf(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": "false"}')
    with pytest.raises(UserError, match="config.json: do_normalize: found 'false', expected true or false"):
        read_hf(folder)


def test_folders_without_their_files(folder, tmp_path):
    with pytest.raises(UserError, match="config.json: no such file"):
        read_hf(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="found no weights, expected model.safetensors or pytorch_model.bin"):
        read_hf(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="config.json: found list, expected a mapping"):
        read_hf(folder)


def test_from_ours_to_theirs_and_back(tmp_path):
    frontend = WaveformFrontendConfig(dims=[8, 8], kernels=[10, 4], strides=[5, 4], normalize=False)
    encoder = TransformerConfig(dim=16, num_layers=2, num_heads=2, feed_forward_dim=24, position_groups=4)
    speech = SpeechEncoder(SpeechConfig(frontend, encoder))
    write_hf(tmp_path, speech.config, speech.state_dict())
    converted = read_hf(tmp_path)
    assert config.build(SpeechConfig, converted.speech, "again") == speech.config
    assert converted.weights.keys() == speech.state_dict().keys() and not converted.left_out
    assert all(torch.equal(converted.weights[name], t) for name, t in speech.state_dict().items())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"extra": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert read_hf(tmp_path).left_out == ["extra"]
    assert from_hf(json.loads((tmp_path / "config.json").read_text()), tensors).speech["frontend"][
        "normalize"
    ]


@pytest.mark.parametrize(
    ("changes", "model_type", "message"),
    [
        ({"bias_buckets": 16}, "hubert", "encoder.bias_buckets: found 16, expected 0 for hubert"),
        (
            {"positions": "conv_stack", "norm_first": True},
            None,
            "encoder.norm_first: found True, expected False",
        ),
        (
            {"positions": "conv_stack"},
            None,
            "frontend.norm: found 'group', expected 'layer' for data2vec-audio",
        ),
        (
            {"positions": "conv_stack", "bias_buckets": 16},
            None,
            "positions: found 'conv_stack', expected 'conv'",
        ),
    ],
)
def test_settings_that_they_have_no_model_for(changes, model_type, message, tmp_path):
    speech = SpeechConfig(WaveformFrontendConfig(), TransformerConfig(**changes))
    with pytest.raises(UserError, match=message):
        write_hf(tmp_path, speech, {}, model_type)
    assert not list(tmp_path.iterdir())


def test_encoders_that_they_do_not_have(tmp_path):
    with pytest.raises(
        UserError, match="found front end 'fbank' and encoder 'conformer', expected 'waveform'"
    ):
        write_hf(tmp_path, SpeechConfig(), {})

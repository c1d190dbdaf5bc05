"""The Transformer encoder against transformers' models, with random weights, through Hugging Face's folders."""

import pytest
import torch
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from toolkit import config
from toolkit.convert.hf import read_hf
from toolkit.export.hf import hf_settings, write_hf
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.hugging_face import parameter_names
from toolkit.models.published import PUBLISHED

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [12, 12, 16, 20],
    "conv_kernel": [10, 3, 3, 2],
    "conv_stride": [5, 2, 2, 2],
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
KINDS = {
    "hubert base": (HubertModel, HubertConfig(**SIZES, num_conv_pos_embeddings=16)),
    "hubert large": (HubertModel, HubertConfig(**SIZES, **LARGE, num_conv_pos_embeddings=15)),
    "wav2vec2 base": (Wav2Vec2Model, Wav2Vec2Config(**SIZES, num_conv_pos_embeddings=15)),
    "wav2vec2 large": (Wav2Vec2Model, Wav2Vec2Config(**SIZES, **LARGE, num_conv_pos_embeddings=16)),
    "wavlm base": (
        WavLMModel,
        WavLMConfig(**SIZES, num_conv_pos_embeddings=16, num_buckets=16, max_bucket_distance=20),
    ),
    "wavlm large": (WavLMModel, WavLMConfig(**SIZES, **LARGE, num_conv_pos_embeddings=16)),
    "data2vec base": (
        Data2VecAudioModel,
        Data2VecAudioConfig(**SIZES, num_conv_pos_embeddings=3, conv_pos_kernel_size=7),
    ),
    "data2vec large": (
        Data2VecAudioModel,
        Data2VecAudioConfig(**SIZES, conv_bias=True, num_conv_pos_embeddings=2, conv_pos_kernel_size=8),
    ),
}
LENGTHS = [4000, 2617, 1203]


@pytest.fixture(params=KINDS, scope="module")
def pair(request, tmp_path_factory):
    """A model of transformers, and ours read from the folder that it wrote."""
    cls, settings = KINDS[request.param]
    torch.manual_seed(0)
    theirs = cls(settings).eval()
    with torch.no_grad():
        # Off the initial values, so that no zero or one hides a mistake.
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    converted = read_hf(folder)
    assert converted.left_out == []
    return theirs, load(converted), folder


def load(converted):
    speech = SpeechEncoder(config.build(SpeechConfig, converted.speech, "converted")).eval()
    speech.load_state_dict(converted.weights)
    return speech


def audio():
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) + 0.05 for length in LENGTHS]


def alone(theirs, waveform):
    """Hidden states of one utterance, normalised as the feature extractor does."""
    values = (waveform - waveform.mean()) / (waveform.var(unbiased=False) + 1e-7).sqrt()
    return theirs(values[None], output_hidden_states=True)


@torch.no_grad()
def test_every_layer_alone_and_inside_a_batch(pair):
    theirs, ours, _ = pair
    rows = torch.full((len(LENGTHS), max(LENGTHS)), 0.7)
    for row, waveform in zip(rows, audio(), strict=True):
        row[: len(waveform)] = waveform
    together = ours(rows, torch.tensor(LENGTHS))
    for row, waveform in enumerate(audio()):
        expected = alone(theirs, waveform)
        own = ours(waveform[None], torch.tensor([len(waveform)]))
        count = int(together.lengths[row])
        assert own.frames.shape == expected.last_hidden_state.shape == (1, count, ours.dim)
        assert len(own.layers) == len(together.layers) == len(expected.hidden_states) == ours.num_layers + 1
        pairs = zip(expected.hidden_states, own.layers, together.layers, strict=True)
        for theirs_layer, own_layer, batch_layer in pairs:
            torch.testing.assert_close(own_layer, theirs_layer, atol=1e-4, rtol=0)
            torch.testing.assert_close(batch_layer[row, :count], theirs_layer[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(own.frames, expected.last_hidden_state, atol=1e-4, rtol=0)


@torch.no_grad()
def test_masked_frames(pair):
    theirs, ours, _ = pair
    waveform = audio()[0]
    values = (waveform - waveform.mean()) / (waveform.var(unbiased=False) + 1e-7).sqrt()
    mask = torch.arange(ours.latent_lengths(len(waveform)))[None] % 7 < 3
    expected = theirs(values[None], mask_time_indices=mask).last_hidden_state
    found = ours(waveform[None], torch.tensor([len(waveform)]), mask).frames
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_gradients_of_every_weight(pair, tmp_path):
    theirs, ours, _ = pair
    waveform = audio()[2]
    weights = torch.randn(ours.dim, generator=torch.Generator().manual_seed(1))
    theirs.zero_grad(), ours.zero_grad()
    (alone(theirs, waveform).last_hidden_state * weights).sum().backward()
    (ours(waveform[None], torch.tensor([len(waveform)])).frames * weights).sum().backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in ours.named_parameters()}
    write_hf(tmp_path, ours.config, grads)
    found = type(theirs).from_pretrained(tmp_path).state_dict()
    factor = ours.config.frontend.feature_grad_mult
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            scale = factor if name.startswith("feature_extractor") else 1.0
            torch.testing.assert_close(found[name], scale * parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


def plain(settings):
    return {key: value for key, value in settings.to_dict().items() if key != "_name_or_path"}


@torch.no_grad()
def test_the_way_back_is_exact(pair, tmp_path):
    theirs, ours, folder = pair
    write_hf(tmp_path, ours.config, ours.state_dict(), theirs.config.model_type)
    again, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = theirs.state_dict()
    assert list(again.state_dict()) == list(expected)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert plain(again.config) == plain(theirs.config)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert (extractor.do_normalize, extractor.sampling_rate) == (True, 16000)
    waveform = audio()[0]
    assert torch.equal(
        alone(again.eval(), waveform).last_hidden_state, alone(theirs, waveform).last_hidden_state
    )
    converted = read_hf(tmp_path)
    assert config.build(SpeechConfig, converted.speech, "again") == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(converted.weights[name], tensor), name


PREFIXES = {
    "hubert": HubertModel,
    "wav2vec2": Wav2Vec2Model,
    "wavlm": WavLMModel,
    "data2vec": Data2VecAudioModel,
}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith("zipformer")])
def test_published_models_have_the_weights_of_theirs(name):
    cls = PREFIXES[name.split("-")[0]]
    speech = config.build(SpeechConfig, PUBLISHED[name], name)
    settings = hf_settings(speech, cls.config_class.model_type)
    with torch.device("meta"):
        theirs, ours = cls(cls.config_class(**settings)), SpeechEncoder(speech)
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    found = {}
    for own, names in parameter_names(speech).items():
        rows = ours.get_parameter(own).chunk(len(names))
        found |= {key: part.shape for key, part in zip(names, rows, strict=True)}
    assert found == expected
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()

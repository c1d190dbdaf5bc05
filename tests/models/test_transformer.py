"""The Transformer encoder: settings, layers left out, recomputation, what learns, and how large published ones are."""

import copy

import pytest
import torch

from toolkit import config
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.published import PUBLISHED
from toolkit.models.transformer import TransformerConfig
from toolkit.models.waveform import WaveformFrontendConfig

FRONTEND = {"dims": [6, 8], "kernels": [10, 4], "strides": [5, 4]}
SIZES = {"dim": 12, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 16, "position_groups": 3}
KINDS = {
    "base": {"position_kernel": 8},
    "large": {"position_kernel": 9, "norm_first": True},
    "wavlm": {"position_kernel": 8, "bias_buckets": 16, "bias_distance": 20},
    "data2vec": {"positions": "conv_stack", "position_kernel": 5, "position_layers": 2},
}


def make(kind, **changes):
    torch.manual_seed(0)
    encoder = TransformerConfig(**SIZES | KINDS[kind] | changes)
    return SpeechEncoder(SpeechConfig(WaveformFrontendConfig(**FRONTEND), encoder))


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 900, generator=generator), torch.tensor([900, 500])


def run(speech, seed=0):
    """The output, and the gradient of every parameter of a function of its valid frames."""
    waveforms, lengths = batch()
    mask = torch.arange(speech.latent_lengths(900)).expand(2, -1) % 3 == 0
    torch.manual_seed(seed)
    output = speech(waveforms, lengths, mask)
    valid = (torch.arange(mask.shape[1]) < output.lengths[:, None])[:, :, None]
    weights = torch.linspace(-1, 1, speech.dim)
    speech.zero_grad()
    (output.frames * valid * weights).square().sum().backward()
    return output, {name: p.grad for name, p in speech.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    dropouts = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "input_dropout": 0.1}
    _, grads = run(make(kind, **dropouts, layer_drop=0.0).train())
    for name, grad in grads.items():
        assert grad is not None and grad.isfinite().all() and grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_layers_left_out_have_gradients_of_zero(kind):
    speech = make(kind, layer_drop=0.5).train()
    counts = set()
    for seed in range(8):
        output, grads = run(speech, seed)
        left_out = [torch.equal(a, b) for a, b in zip(output.layers, output.layers[1:], strict=False)]
        counts.add(sum(left_out))
        assert len(output.layers) == 4
        for name, grad in grads.items():
            assert grad is not None, name
            part = name.split(".")
            if part[1] == "layers":
                assert bool(grad.any()) != left_out[int(part[2])], name
    assert len(counts) > 1
    output, _ = run(speech.eval())
    assert not any(torch.equal(a, b) for a, b in zip(output.layers, output.layers[1:], strict=False))


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same(kind):
    settings = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "layer_drop": 0.3}
    plain, plain_grads = run(make(kind, **settings).train())
    again, again_grads = run(make(kind, **settings, checkpointing=True).train())
    assert torch.equal(plain.frames, again.frames)
    for name, grad in plain_grads.items():
        torch.testing.assert_close(again_grads[name], grad, msg=name)


@pytest.mark.parametrize("kind", ["large", "wavlm"])
def test_layers_alone_give_every_parameter_a_gradient(kind):
    """As DistributedDataParallel needs it, also in a step that leaves out all layers."""
    speech = make(kind, layer_drop=0.999).train()
    speech(*batch()).layers[-1].square().sum().backward()
    unused = {name for name, p in speech.named_parameters() if p.grad is None}
    assert unused == {"encoder.mask_embedding"}


def test_frames_are_the_last_layer_but_for_the_final_norm():
    assert (lambda output: output.layers[-1] is output.frames)(make("base")(*batch()))
    large = make("large").eval()
    output = large(*batch())
    assert torch.equal(output.frames, large.encoder.norm(output.layers[-1]))


def test_several_masks_an_utterance():
    speech = make("base").eval()
    waveforms, lengths = batch()
    masks = torch.rand(4, speech.latent_lengths(900)) < 0.5
    together = speech(waveforms, lengths, masks)
    for index in range(2):
        alone = speech(waveforms, lengths, masks[index::2])
        torch.testing.assert_close(together.frames[index::2], alone.frames)
    assert together.latents.shape == (2, masks.shape[1], 8)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind):
    speech = make(kind).eval()
    with torch.no_grad():
        expected = speech(*batch()).frames
        with torch.autocast("cpu", torch.bfloat16):
            found = speech(*batch()).frames
    assert (found.float() - expected)[0].abs().mean() < 0.1


def test_another_front_end_fits():
    speech = SpeechEncoder(SpeechConfig(encoder=TransformerConfig(**SIZES | KINDS["base"]))).eval()
    output = speech(*[part.repeat_interleave(8, -1) if part.dim() > 1 else part * 8 for part in batch()])
    assert output.frames.shape == (2, 45, 12) and output.frames.isfinite().all()


SIZE = {
    "hubert-base": 94_371_712,
    "hubert-large": 315_438_720,
    "hubert-xlarge": 962_497_408,
    "wav2vec2-base": 94_371_712,
    "wav2vec2-large": 315_438_720,
    "wavlm-base": 94_381_936,
    "wavlm-large": 315_453_120,
    "data2vec-audio-base": 93_164_288,
    "data2vec-audio-large": 313_276_416,
}


@pytest.mark.parametrize("name", SIZE)
def test_published_models(name):
    with torch.device("meta"):
        speech = SpeechEncoder(config.build(SpeechConfig, copy.deepcopy(PUBLISHED[name]), name))
    assert sum(p.numel() for p in speech.parameters()) == SIZE[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"dim": 13}, "dim must be a multiple of num_heads"),
        ({"position_groups": 5}, "dim must be a multiple of position_groups"),
        ({"layer_drop": 1.0}, r"layer_drop must be in \[0, 1\)"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be over 0"),
        ({"bias_buckets": 6}, "bias_buckets must be a multiple of 4"),
        ({"bias_buckets": 80, "bias_distance": 20}, "bias_distance must be above bias_buckets / 4"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SIZES | changes)

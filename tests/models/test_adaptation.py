"""LoRA and adapters: nothing at first, trained alone, merged, for every encoder; depths of parameters."""

import copy

import pytest
import torch

from tests.models.small_zipformer import make_config
from tests.models.test_invariance import FRONT, SMALL
from tests.models.test_zipformer_streaming import run
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.models.adaptation import (
    AdaptersConfig,
    LoraConfig,
    NoneConfig,
    adapt,
    is_added,
    merge,
    without_additions,
)
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.depth import layers_above
from toolkit.nn.adapter import LoraLinear, LoraSwooshLinear

EVERYTHING = LoraConfig(rank=2, alpha=6.0, targets=["."])
KINDS = {"lora": LoraConfig(rank=2), "everything": EVERYTHING, "adapters": AdaptersConfig(dim=3)}


def make(name, front="fbank"):
    encoder, frontend = {"name": name, **SMALL[name][front][0]}, {"name": front, **FRONT[front][0]}
    torch.manual_seed(0)
    return SpeechEncoder(build(SpeechConfig, {"frontend": frontend, "encoder": encoder}, "small")).eval()


def frames(speech):
    generator = torch.Generator().manual_seed(1)
    waveforms = 0.1 * torch.randn(2, 8000, generator=generator)
    return speech(waveforms, torch.tensor([8000, 5000])).frames


def stir(speech):
    """Moves what was added off its initial values."""
    with torch.no_grad():
        for name, parameter in speech.named_parameters():
            if is_added(name):
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_does_nothing_at_first_and_learns_alone(name, kind):
    speech = make(name)
    plain, names = frames(speech), dict(speech.named_parameters())
    adapt(speech, KINDS[kind])
    torch.testing.assert_close(frames(speech), plain)
    added = {n: p for n, p in speech.named_parameters() if is_added(n)}
    assert added and all(parameter.requires_grad for parameter in added.values())
    kept = {n: p for n, p in speech.named_parameters() if not is_added(n)}
    assert all(parameter is names[n] and not parameter.requires_grad for n, parameter in kept.items())
    assert kept.keys() == names.keys()
    frames(speech.train()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in added.values())
    assert all(parameter.grad is None for parameter in kept.values())
    grown = [n for n, parameter in added.items() if ".up" in n and parameter.grad.any()]
    assert len(grown) > 0.6 * sum(".up" in n for n in added)


@pytest.mark.parametrize("name", SMALL)
def test_merged_changes_are_the_same_without_parameters_of_their_own(name):
    speech = make(name)
    plain = dict(speech.named_parameters())
    adapt(speech, EVERYTHING)
    stir(speech)
    expected, whole = frames(speech), copy.deepcopy(speech)
    merge(speech)
    assert dict(speech.named_parameters()).keys() == plain.keys()
    assert {type(m) for m in speech.modules()}.isdisjoint({LoraLinear, LoraSwooshLinear})
    torch.testing.assert_close(frames(speech), expected, rtol=1e-4, atol=1e-5)
    fresh = make(name)
    fresh.load_state_dict(without_additions(whole.state_dict(), EVERYTHING, "x"))
    torch.testing.assert_close(frames(fresh), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(frames(make(name)), expected, atol=1e-3)


def test_low_rank_changes_reach_the_linear_layer_behind_an_activation():
    """Zipformer's activations are one with the layer after them; dropout masks come between."""
    layer = make("zipformer").encoder.stacks[0].layers[0].feed_forward1.out
    changed = LoraSwooshLinear(layer, 2, 3.0, 0.0)
    torch.nn.init.normal_(changed.lora.up)
    x, keep = torch.randn(2, 5, layer.in_features), torch.rand(2, 1, layer.in_features)
    torch.testing.assert_close(changed(x, keep), changed.merged()(x, keep))
    torch.testing.assert_close(changed(x), changed.merged()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_zipformer_is_streamed(kind):
    speech = SpeechEncoder(SpeechConfig(encoder=make_config(causal=True))).eval()
    adapt(speech, KINDS[kind])
    stir(speech)
    features, lengths = torch.randn(2, 90, speech.frontend.dim), torch.tensor([90, 60])
    with torch.no_grad():
        whole = speech.encoder.encode(*speech.encoder.embed(features, lengths))
        found, _ = run(speech.encoder, features, lengths)
    for row, frames in enumerate(found):
        torch.testing.assert_close(frames, whole.frames[row, : len(frames)], atol=1e-4, rtol=1e-4)


def test_targets_are_chosen_by_name():
    speech = make("conformer")
    adapt(speech, LoraConfig(targets=[r"layers\.1\..*qkv", "feed_forward1"]))
    found = [name for name, m in speech.encoder.named_modules() if isinstance(m, LoraLinear)]
    assert found == [
        "layers.0.feed_forward1.1",
        "layers.0.feed_forward1.4",
        "layers.1.feed_forward1.1",
        "layers.1.feed_forward1.4",
        "layers.1.attention.qkv",
    ]


def test_a_target_that_is_nowhere():
    with pytest.raises(
        UserError, match="init.adaptation.targets: found 'atention', which is in the name of no linear"
    ):
        adapt(make("conformer"), LoraConfig(targets=["attention", "atention"]))


def test_no_adaptation_changes_nothing():
    speech = make("conformer")
    adapt(speech, NoneConfig())
    assert all(p.requires_grad for p in speech.encoder.parameters())


def test_dropout_is_that_of_the_change_alone():
    speech = make("transformer")
    adapt(speech, LoraConfig(dropout=0.5))
    layer = next(m for m in speech.modules() if isinstance(m, LoraLinear)).train()
    x = torch.ones(4, layer.in_features)
    torch.testing.assert_close(layer(x)[0], layer(x)[1])
    torch.nn.init.ones_(layer.lora.up)
    assert not torch.allclose(layer(x)[0], layer(x)[1])


def test_adapters_cannot_be_taken_out():
    with pytest.raises(
        UserError, match="old/model: found an encoder with adapters, expected one without, or one"
    ):
        without_additions({}, AdaptersConfig(), "old/model")


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (LoraConfig, {"rank": 0}, "rank must be at least 1"),
        (LoraConfig, {"alpha": 0.0}, "alpha positive"),
        (LoraConfig, {"dropout": 1.0}, r"dropout in \[0, 1\)"),
        (LoraConfig, {"targets": ["("]}, r"targets: found '\(', which is no regular expression"),
        (LoraConfig, {"targets": []}, "targets must not be empty"),
        (AdaptersConfig, {"dim": 0}, "dim must be at least 1"),
    ],
)
def test_impossible_settings(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)


def test_depths_of_equal_layers():
    speech = make("conformer")
    above = layers_above(speech)
    assert above.keys() == dict(speech.named_parameters()).keys()
    assert above["encoder.subsample.project.weight"] == above["encoder.mask_embedding"] == 2
    assert above["encoder.layers.0.norm.weight"] == 1 and above["encoder.layers.1.norm.weight"] == 0


def test_depths_of_a_transformer():
    first, last = make("transformer", "waveform"), make("transformer")
    assert last.encoder.config.norm_first and not first.encoder.config.norm_first
    assert layers_above(first)["frontend.convs.0.weight"] == 2
    assert layers_above(first)["encoder.norm.weight"] == 2 and layers_above(last)["encoder.norm.weight"] == 0
    assert layers_above(first)["encoder.project.weight"] == 2


def test_depths_of_stacks():
    speech = SpeechEncoder(SpeechConfig(encoder=make_config()))
    above = layers_above(speech)
    places = {"stacks.0.layers.0": 3, "stacks.1.layers.0": 2, "stacks.1.layers.1": 1, "stacks.2.layers.0": 0}
    for name, number in places.items():
        assert above[f"encoder.{name}.bypass.scale"] == number
    assert above["encoder.stacks.1.downsample.logits"] == above["encoder.stacks.1.combine.scale"] == 1
    assert above["encoder.subsample.out.weight"] == 4 and above["encoder.downsample_output.logits"] == 0

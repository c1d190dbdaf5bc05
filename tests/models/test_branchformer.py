"""Branchformer and E-Branchformer layers against the papers' formulas; everything learns; sizes are checked.

That an utterance does not depend on what shares its batch is in test_invariance.py.
"""

import pytest
import torch
from torch.nn.functional import conv1d, layer_norm, silu

from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.branchformer import (
    BranchformerConfig,
    BranchformerLayer,
    EBranchformerConfig,
    EBranchformerLayer,
)
from toolkit.nn.attention import rotary_table

SIZES = {"dim": 8, "num_layers": 2, "num_heads": 2, "gating_dim": 12, "kernel_size": 5}
BOTH = {
    "branchformer": BranchformerConfig(**SIZES),
    "e_branchformer": EBranchformerConfig(**SIZES, merge_kernel_size=3, feed_forward_dim=10),
}


def layer_and_input(cls, name):
    torch.manual_seed(0)
    layer = cls(BOTH[name]).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 7, 8, dtype=torch.float64)
    return layer, x, rotary_table(7, 4, x.device), torch.ones(1, 7, dtype=torch.bool)


def normed(norm, x):
    return layer_norm(x, x.shape[-1:], norm.weight, norm.bias)


def branches_of(layer, x, rotation, valid):
    """Both branches of a layer, side by side."""
    branches = layer.branches
    attended = branches.attention(normed(branches.attention_norm, x), rotation, None)
    return torch.cat([attended, branches.gating(normed(branches.gating_norm, x), valid)], dim=2)


def half_feed_forward(module, x):
    norm, expand, _, _, project, _ = module
    return 0.5 * project(silu(expand(normed(norm, x))))


def test_a_branchformer_layer():
    layer, x, rotation, valid = layer_and_input(BranchformerLayer, "branchformer")
    expected = normed(layer.norm, x + layer.merge(branches_of(layer, x, rotation, valid)))
    torch.testing.assert_close(layer(x, rotation, valid), expected)


def test_an_e_branchformer_layer():
    layer, x, rotation, valid = layer_and_input(EBranchformerLayer, "e_branchformer")
    after = x + half_feed_forward(layer.feed_forward1, x)
    both = branches_of(layer, after, rotation, valid)
    weight, bias = layer.depthwise.weight.squeeze(3), layer.depthwise.bias
    neighbours = conv1d(both.transpose(1, 2), weight, bias, padding=1, groups=16).transpose(1, 2)
    after = after + layer.merge(both + neighbours)
    expected = normed(layer.norm, after + half_feed_forward(layer.feed_forward2, after))
    torch.testing.assert_close(layer(x, rotation, valid), expected)


@pytest.mark.parametrize("name", BOTH)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    speech = SpeechEncoder(SpeechConfig(encoder=BOTH[name])).train()
    lengths = torch.tensor([6000, 4000])
    frames = speech.output_lengths(6000)
    mask = torch.arange(frames).expand(2, -1) % 3 == 0
    output = speech(0.1 * torch.randn(2, 6000), lengths, mask)
    (output.frames * torch.randn_like(output.frames)).sum().backward()
    still = [n for n, p in speech.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (BranchformerConfig, {"gating_dim": 7}, "gating_dim must be even, got 7"),
        (BranchformerConfig, {"kernel_size": 4}, "kernel_size must be odd, got 4"),
        (BranchformerConfig, {"dim": 10}, "dim must be a multiple of 2"),
        (EBranchformerConfig, {"merge_kernel_size": 2}, "merge_kernel_size must be odd, got 2"),
        (EBranchformerConfig, {"feed_forward_dim": 0}, "feed_forward_dim must be at least 1, got 0"),
        (EBranchformerConfig, {"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_impossible_sizes(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)

"""Published sizes have the published numbers of parameters."""

import pytest
import torch

from toolkit.config import build
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.published import PUBLISHED


def make(name):
    config = build(SpeechConfig, PUBLISHED[name], name)
    with torch.device("meta"):
        return SpeechEncoder(config)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def unused(speech):
    """icefall's layers have another bypass of one number a channel, which nothing uses."""
    sizes = speech.encoder.config.stacks
    return sum(stack.num_layers * stack.dim for stack in sizes)


@pytest.mark.parametrize(("name", "published"), [("zipformer-base", 94.56), ("zipformer-large", 305.9)])
def test_zipformer_for_pretraining(name, published):
    speech = make(name)
    head = (speech.dim + 1) * 504
    total = (count(speech) + head + unused(speech)) / 1e6
    assert round(total, len(str(published).partition(".")[2])) == published


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("zipformer-asr-small", 22_118_279),
        ("zipformer-asr-medium", 64_250_603),
        ("zipformer-asr-large", 147_010_094),
    ],
)
def test_zipformer_for_recognition(name, published):
    """The published models have a linear layer to 500 symbols, and no mask embedding."""
    speech = make(name)
    head = (speech.dim + 1) * 500
    own = count(speech) - speech.encoder.mask_embedding.numel()
    assert own + head + unused(speech) == published


def test_base_on_filter_banks():
    speech = make("zipformer-base-fbank")
    assert (speech.dim, speech.frame_shift) == (768, pytest.approx(0.02))
    assert count(speech.encoder.stacks) == count(make("zipformer-base").encoder.stacks)

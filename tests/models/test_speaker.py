"""The speaker model: shapes, and embeddings that depend on nothing but the utterance."""

import pytest
import torch

from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.conformer import ConformerConfig
from toolkit.models.speaker import SpeakerHeadConfig, SpeakerModel


def tiny(num_speakers=5):
    torch.manual_seed(0)
    encoder = ConformerConfig(dim=16, num_layers=2, num_heads=2, feed_forward_dim=32, kernel_size=3)
    config = SpeakerHeadConfig(hidden_dim=12, attention_dim=4, embedding_dim=8)
    return SpeakerModel(SpeechEncoder(SpeechConfig(encoder=encoder)), config, num_speakers)


def test_shapes_and_gradients():
    model = tiny()
    waveforms, lengths = torch.randn(3, 8000), torch.tensor([8000, 6000, 4000])
    cosines = model(waveforms, lengths)
    assert cosines.shape == (3, 5) and cosines.abs().max() <= 1 + 1e-6
    assert model.embed(waveforms, lengths).shape == (3, model.embedding_dim) == (3, 8)
    cosines.sum().backward()
    # The mask embedding belongs to pretraining; all else must learn.
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without in ([], ["speech.encoder.mask_embedding"])


def test_an_embedding_does_not_depend_on_its_batch():
    model = tiny().eval()
    short, long = torch.randn(1, 5000), torch.randn(1, 9000)
    batch = torch.zeros(2, 9000)
    batch[0, :5000], batch[1] = short[0], long[0]
    with torch.no_grad():
        together = model.embed(batch, torch.tensor([5000, 9000]))
        torch.testing.assert_close(
            together[:1], model.embed(short, torch.tensor([5000])), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            together[1:], model.embed(long, torch.tensor([9000])), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("values", [{"hidden_dim": 0}, {"embedding_dim": -1}, {"dropout": 1.0}])
def test_impossible_sizes(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SpeakerHeadConfig(**values)

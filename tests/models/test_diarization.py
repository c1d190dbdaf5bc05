"""The segmentation model: shapes, and outputs that depend on nothing but the chunk."""

import pytest
import torch

from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.conformer import ConformerConfig
from toolkit.models.diarization import DiarizationHeadConfig, DiarizationModel


def tiny():
    torch.manual_seed(0)
    encoder = ConformerConfig(dim=16, num_layers=2, num_heads=2, feed_forward_dim=32, kernel_size=3)
    sizes = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}
    speech = SpeechEncoder(SpeechConfig(encoder=encoder))
    return DiarizationModel(speech, DiarizationHeadConfig(**sizes))


def test_shapes_and_gradients():
    model = tiny()
    log_probs, lengths = model(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    assert log_probs.shape == (2, 25, 7) and lengths.tolist() == [25, 13]
    assert model.frame_shift == pytest.approx(0.04)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 25))
    log_probs[..., 0].sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without in ([], ["speech.encoder.mask_embedding"])


def test_probabilities_are_the_marginals():
    model = tiny().eval()
    with torch.no_grad():
        log_probs, _ = model(torch.randn(1, 8000), torch.tensor([8000]))
        torch.manual_seed(0)
        probabilities, _ = model.probabilities(torch.randn(1, 8000), torch.tensor([8000]))
    assert probabilities.shape == (1, 13, 3) and (0 <= probabilities).all() and (probabilities <= 1).all()
    assert log_probs.shape[1] == 13


def test_an_output_does_not_depend_on_its_batch():
    model = tiny().eval()
    short, long = torch.randn(1, 5000), torch.randn(1, 9000)
    batch = torch.zeros(2, 9000)
    batch[0, :5000], batch[1] = short[0], long[0]
    with torch.no_grad():
        together, lengths = model(batch, torch.tensor([5000, 9000]))
        alone, _ = model(short, torch.tensor([5000]))
        torch.testing.assert_close(together[:1, : lengths[0]], alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[1:], model(long, torch.tensor([9000]))[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("values", [{"num_speakers": 5}, {"max_simultaneous": 4}, {"kernel_size": 4}])
def test_impossible_sizes(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        DiarizationHeadConfig(**values)

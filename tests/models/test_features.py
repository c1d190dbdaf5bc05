"""Pretrained features for models of one's own, and for s3prl."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import toolkit
from tests.tasks.small import SMALLER_ENCODER
from toolkit.config import build
from toolkit.errors import UserError
from toolkit.s3prl import UpstreamExpert
from toolkit.tasks.encoder import EncoderConfig, EncoderTask
from toolkit.tasks.load import save_model

LENGTHS = torch.tensor([8000, 5000])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    raw = {"speech": {"encoder": SMALLER_ENCODER | {"num_layers": 2, "dropout": 0.5}}}
    task = EncoderTask(build(EncoderConfig, raw, "test"), folder, seed=0)
    save_model(folder, task.build_model(), task.config)
    return folder


def batch():
    torch.manual_seed(4)
    return torch.randn(2, 8000), LENGTHS


def test_frozen_features_learn_the_weights_of_the_layers_alone(folder):
    features = toolkit.pretrained(folder).train()
    assert features.training and not any(module.training for module in features.speech.modules())
    frames, lengths = features(*batch())
    layers = toolkit.load(folder).features(*batch()).layers
    torch.testing.assert_close(frames, sum(layers) / 3)
    assert frames.shape == (2, 13, features.dim) and lengths.tolist() == [13, 8]
    assert features.frame_shift == 0.04
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    frames.square().sum().backward()
    assert [name for name, p in features.named_parameters() if p.requires_grad] == ["layer_sum.logits"]
    torch.optim.SGD([p for p in features.parameters() if p.requires_grad], lr=0.1).step()
    changed = [
        name for name, tensor in features.state_dict().items() if not torch.equal(tensor, before[name])
    ]
    assert changed == ["layer_sum.logits"]


def test_fine_tuned_features_learn_everything_that_is_used(folder):
    features = toolkit.pretrained(folder, frozen=False).train()
    assert all(module.training for module in features.modules())
    features(*batch())[0].square().sum().backward()
    without = [name for name, p in features.named_parameters() if p.requires_grad and p.grad is None]
    assert not without and features.speech.encoder.layers[0].norm.weight.grad.abs().sum() > 0
    features.eval()
    with torch.no_grad():
        assert not features(*batch())[0].requires_grad


def test_lengths_beyond_the_samples(folder):
    waveforms, lengths = batch()
    for features in (toolkit.load(folder).features, toolkit.pretrained(folder)):
        with pytest.raises(ValueError, match="lengths must be at most 8000, the number of samples, got 8001"):
            features(waveforms, torch.tensor([5000, 8001]))
        features(waveforms, lengths)


def test_not_a_model(tmp_path):
    with pytest.raises(UserError, match="not a model directory"):
        toolkit.pretrained(tmp_path)


@pytest.fixture(scope="module")
def upstream(folder, request):
    """As s3prl makes it: through the hub, with arguments that are for other upstreams."""
    root = str(request.config.rootpath)
    return torch.hub.load(
        root, "toolkit_local", source="local", ckpt=str(folder), model_config=None, refresh=False
    )


def test_s3prl_gets_every_layer(folder, upstream):
    assert isinstance(upstream, UpstreamExpert)
    waveforms, lengths = batch()
    wavs = [row[:length] for row, length in zip(waveforms, lengths, strict=True)]
    with torch.no_grad():
        found = upstream.eval()(wavs)
    expected = toolkit.load(folder).features(pad_sequence(wavs, batch_first=True), lengths)
    assert len(found["hidden_states"]) == 3
    for one, other in zip(found["hidden_states"], expected.layers, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found["last_hidden_state"], found["hidden_states"][-1])


def test_s3prl_finds_as_many_frames_as_it_expects(upstream):
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == 640
    for samples in (800, 1600, 7999, 16000):
        with torch.no_grad():
            (frames, *_) = upstream([torch.randn(samples)])["hidden_states"]
        # It pads by one frame or cuts, and measures from either end of a stride.
        assert abs(frames.shape[1] - len(range(0, samples, rate))) <= 1


def test_s3prl_can_fine_tune(folder):
    upstream = UpstreamExpert(str(folder)).train()
    upstream([torch.randn(4000)])["last_hidden_state"].sum().backward()
    assert upstream.speech.encoder.layers[0].norm.weight.grad is not None

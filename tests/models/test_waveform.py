"""The learned front end: equal to plain convolutions on each utterance alone, for any batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv1d, gelu, group_norm, layer_norm

from toolkit.models.waveform import WaveformFrontend, WaveformFrontendConfig


def make(**changes):
    sizes = {"dims": [6, 5, 4, 4], "kernels": [10, 3, 3, 2], "strides": [5, 2, 2, 2]}
    torch.manual_seed(0)
    frontend = WaveformFrontend(WaveformFrontendConfig(**sizes | changes))
    with torch.no_grad():
        for parameter in frontend.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return frontend


KINDS = {
    "group": make(),
    "group with bias": make(bias=True, normalize=False),
    "layer": make(norm="layer", bias=True),
}


def reference(frontend, waveform):
    """(S,) samples to (T, F), step by step."""
    if frontend.config.normalize:
        waveform = (waveform - waveform.mean()) / (waveform.var(unbiased=False) + 1e-7).sqrt()
    x = waveform[None, None]
    for index, (conv, norm) in enumerate(zip(frontend.convs, frontend.norms, strict=True)):
        x = conv1d(x, conv.weight, conv.bias, frontend.config.strides[index])
        if frontend.config.norm == "layer":
            x = layer_norm(x.transpose(1, 2), x.shape[1:2], norm.weight, norm.bias).transpose(1, 2)
        elif index == 0:
            x = group_norm(x, x.shape[1], conv.norm.weight, conv.norm.bias)
        x = gelu(x)
    return x[0].t()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(30, 3000), min_size=1, max_size=4))
def test_equal_to_plain_convolutions_for_any_batch(kind, lengths):
    frontend = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(length, generator=generator) for length in lengths]
    rows = torch.full((len(lengths), max(lengths)), 7.0)
    for row, waveform in zip(rows, waveforms, strict=True):
        row[: len(waveform)] = waveform
    with torch.no_grad():
        features, frames = frontend(rows, torch.tensor(lengths))
        assert features.shape[1] == max(1, frontend.output_lengths(max(lengths)))
        for row, waveform in enumerate(waveforms):
            count = frontend.output_lengths(len(waveform))
            assert type(count) is int and int(frames[row]) == count
            if count:
                expected = reference(frontend, waveform)
                assert len(expected) == count
                torch.testing.assert_close(features[row, :count], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    frontend = KINDS[kind]
    waveform = torch.randn(500)
    lengths = torch.tensor([500])
    parameters = list(frontend.parameters())
    found = torch.autograd.grad(frontend(waveform[None], lengths)[0].square().sum(), parameters)
    factor = frontend.config.feature_grad_mult
    expected = torch.autograd.grad(reference(frontend, waveform).square().sum(), parameters)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, factor * theirs, atol=1e-4, rtol=1e-3)


def test_a_frozen_front_end_has_no_gradients():
    frontend = make(feature_grad_mult=0.0)
    features, _ = frontend(torch.randn(1, 400), torch.tensor([400]))
    assert not features.requires_grad and not any(p.requires_grad for p in frontend.parameters())


def test_half_precision():
    for frontend in KINDS.values():
        waveforms, lengths = torch.randn(2, 800), torch.tensor([800, 500])
        with torch.autocast("cpu", torch.bfloat16):
            found, frames = frontend(waveforms, lengths)
        found[0].float().sum().backward()
        expected, _ = frontend(waveforms, lengths)
        assert (found.float() - expected)[1, : frames[1]].abs().mean() < 0.05


@pytest.mark.parametrize("waveform", [torch.zeros(400), torch.full((400,), 0.3)])
def test_silence_gives_finite_features(waveform):
    for frontend in KINDS.values():
        features, _ = frontend(waveform[None], torch.tensor([400]))
        features.sum().backward()
        assert features.isfinite().all() and all(p.grad.isfinite().all() for p in frontend.parameters())


@pytest.mark.parametrize("samples", [0, 1, 9, 59])
def test_audio_too_short_for_a_frame_has_none(samples):
    for frontend in KINDS.values():
        features, frames = frontend(torch.randn(2, samples), torch.tensor([samples, samples // 2]))
        features.sum().backward()
        assert features.shape == (2, 1, 4) and features.isfinite().all() and frames.tolist() == [0, 0]
        assert all(p.grad.isfinite().all() for p in frontend.parameters())
        assert frontend(torch.randn(1, 60), torch.tensor([60]))[1].tolist() == [1]


def test_the_default_gives_50_frames_a_second():
    frontend = WaveformFrontend(WaveformFrontendConfig())
    assert (frontend.dim, frontend.frame_shift) == (512, 0.02)
    assert (frontend.output_lengths(16000), frontend.output_lengths(399)) == (49, 0)
    assert sum(p.numel() for p in frontend.parameters()) == 4_200_448


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": [4]}, "of one length, got 1, 4 and 4"),
        ({"strides": [5, 2, 0, 2]}, "strides must be at least 1"),
        ({"strides": [5, 4, 2, 2]}, "kernels must be at least as large as strides"),
        ({"sample_rate": 100}, "sample_rate must be at least 8000"),
        ({"feature_grad_mult": -1.0}, "feature_grad_mult must not be negative"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)

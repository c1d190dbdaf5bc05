"""The speech encoder: an utterance's output is its own, lengths are as promised, everything learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.conformer import ConformerConfig


def make(subsampling, **changes):
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24, "kernel_size": 5}
    encoder = ConformerConfig(**sizes | {"subsampling": subsampling, "subsampling_channels": 3} | changes)
    torch.manual_seed(0)
    speech = SpeechEncoder(SpeechConfig(encoder=encoder)).eval()
    with torch.no_grad():
        # Off the initial values, so that no zero or one hides a mistake.
        for parameter in speech.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return speech


ENCODERS = {factor: make(factor) for factor in (2, 4)}


def batch(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    waveforms = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    # What stands in the padding must not matter, so it is not zero.
    rows = torch.full((len(lengths), max(lengths)), 0.5)
    for row, waveform in zip(rows, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return rows, torch.tensor(lengths), waveforms


@pytest.mark.parametrize("factor", [2, 4])
@settings(max_examples=25)
@given(lengths=st.lists(st.integers(400, 12000), min_size=1, max_size=4), masked=st.booleans())
def test_an_utterance_does_not_depend_on_what_shares_its_batch(factor, lengths, masked):
    speech = ENCODERS[factor]
    rows, sizes, waveforms = batch(lengths)
    frames = speech.output_lengths(max(lengths))
    assert type(frames) is int
    mask = torch.rand(len(lengths), frames, generator=torch.Generator().manual_seed(1)) < 0.3
    with torch.no_grad():
        together = speech(rows, sizes, mask if masked else None)
        assert torch.equal(together.lengths, speech.output_lengths(sizes))
        assert together.frames.shape == (len(lengths), frames, speech.dim)
        for row, waveform in enumerate(waveforms):
            count = int(together.lengths[row])
            own_mask = mask[row : row + 1, :count] if masked else None
            alone = speech(waveform[None], torch.tensor([len(waveform)]), own_mask)
            assert alone.lengths.tolist() == [count] and alone.frames.shape[1] == count
            for mine, shared in zip(alone.layers, together.layers, strict=True):
                torch.testing.assert_close(shared[row, :count], mine[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_contract(factor):
    speech = ENCODERS[factor]
    assert (speech.dim, speech.num_layers, speech.frame_shift) == (16, 2, pytest.approx(0.01 * factor))
    rows, lengths, _ = batch([16000, 8000])
    output = speech(rows, lengths)
    feature_frames = speech.frontend.output_lengths(lengths)
    assert output.lengths.tolist() == [-(-int(n) // factor) for n in feature_frames]
    assert len(output.layers) == 3 and output.layers[-1] is output.frames


def test_masked_frames_are_hidden_but_others_see_the_mask():
    speech = ENCODERS[4]
    rows, lengths, _ = batch([8000])
    frames = int(speech.output_lengths(lengths))
    mask = torch.zeros(1, frames, dtype=torch.bool)
    mask[0, 3:6] = True
    hidden = speech(rows, lengths, mask)
    embedding = speech.encoder.mask_embedding
    assert torch.equal(hidden.layers[0][0, 3:6], embedding.expand(3, -1))
    plain = speech(rows, lengths)
    assert torch.equal(hidden.layers[0][0, 6:], plain.layers[0][0, 6:])
    assert not torch.allclose(hidden.frames[0, 6:], plain.frames[0, 6:])


@pytest.mark.parametrize("factor", [2, 4])
def test_every_parameter_learns(factor):
    speech = make(factor, dropout=0.1, attention_dropout=0.1).train()
    rows, lengths, _ = batch([8000, 5000])
    frames = speech.output_lengths(8000)
    mask = torch.arange(frames).expand(2, -1) % 3 == 0
    output = speech(rows, lengths, mask)
    sum((layer.sin() * torch.arange(16)).sum() for layer in output.layers).backward()
    for name, parameter in speech.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_loudness_does_not_matter():
    """Features are normalised within the utterance."""
    speech = ENCODERS[4]
    rows, lengths, _ = batch([8000])
    with torch.no_grad():
        torch.testing.assert_close(
            speech(0.1 * rows, lengths).frames, speech(rows, lengths).frames, atol=1e-3, rtol=1e-3
        )


def test_half_precision_runs():
    speech = ENCODERS[4]
    rows, lengths, _ = batch([8000, 4000])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = speech(rows, lengths)
    assert found.frames.isfinite().all()
    with torch.no_grad():
        expected = speech(rows, lengths).frames
    valid = torch.arange(expected.shape[1]) < found.lengths[:, None]
    assert (found.frames.float() - expected)[valid].abs().mean() < 0.05

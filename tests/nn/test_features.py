"""Filter banks and MFCC against kaldi-native-fbank, and what must not change them."""

import copy
import dataclasses
import importlib.util
import sys

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from toolkit.errors import UserError
from toolkit.nn.features import Fbank, FbankConfig, Mfcc, MfccConfig, add_deltas

TOLERANCE = 1e-3


def reference(waveform: torch.Tensor, config: FbankConfig | MfccConfig) -> np.ndarray:
    """kaldi-native-fbank's features (T, C) of one utterance (S,), without deltas."""
    cepstral = isinstance(config, MfccConfig)
    options = kaldi_native_fbank.MfccOptions() if cepstral else kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_length_ms
    options.frame_opts.frame_shift_ms = config.frame_shift_ms
    options.frame_opts.preemph_coeff = config.preemphasis
    options.frame_opts.remove_dc_offset = config.remove_dc_offset
    options.frame_opts.window_type = config.window
    options.frame_opts.snip_edges = config.snip_edges
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = config.low_freq
    options.mel_opts.high_freq = config.high_freq
    options.use_energy = config.use_energy
    if cepstral:
        options.num_ceps = config.num_ceps
        options.cepstral_lifter = config.cepstral_lifter
    stream = (kaldi_native_fbank.OnlineMfcc if cepstral else kaldi_native_fbank.OnlineFbank)(options)
    stream.accept_waveform(config.sample_rate, waveform.tolist())
    stream.input_finished()
    return np.array([stream.get_frame(i) for i in range(stream.num_frames_ready)])


def build(config: FbankConfig | MfccConfig) -> Fbank | Mfcc:
    return Mfcc(config) if isinstance(config, MfccConfig) else Fbank(config)


def check_parity(waveform: torch.Tensor, config: FbankConfig | MfccConfig) -> None:
    expected = reference(waveform, config)
    features, lengths = build(config)(waveform[None], torch.tensor([len(waveform)]))
    assert lengths.tolist() == [len(expected)]
    assert features.shape[:2] == (1, len(expected))
    if len(expected):
        np.testing.assert_allclose(features[0], expected, rtol=0, atol=TOLERANCE)


def waveform_of(kind: str, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    noise = torch.randn(size, generator=generator)
    # A pure tone would leave most bins to the rounding of whoever computes them.
    tone = torch.sin(torch.arange(size) * 0.3) + 0.1 * noise
    return {"noise": 0.3 * noise, "silence": 0 * noise, "offset": 0 * noise + 0.5, "tone": tone}[kind]


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("kind", ["noise", "silence", "offset", "tone"])
@pytest.mark.parametrize("config", [FbankConfig(), MfccConfig(delta_order=0)], ids=["fbank", "mfcc"])
def test_equals_kaldi_native_fbank_for_any_length(config, kind, snip_edges):
    config = dataclasses.replace(config, snip_edges=snip_edges)
    for size in (1, 79, 80, 81, 200, 399, 400, 401, 560, 4321, 16000, 33001):
        check_parity(waveform_of(kind, size), config)


@pytest.mark.parametrize(
    "config",
    [
        FbankConfig(use_energy=True),
        FbankConfig(window="hanning"),
        FbankConfig(window="hamming", preemphasis=0.0),
        FbankConfig(window="rectangular", remove_dc_offset=False),
        FbankConfig(sample_rate=8000, num_mel_bins=40, low_freq=0, high_freq=0),
        FbankConfig(frame_length_ms=32, frame_shift_ms=8, high_freq=7600),
        FbankConfig(frame_length_ms=10, frame_shift_ms=30, num_mel_bins=20),
        MfccConfig(delta_order=0, use_energy=True),
        MfccConfig(delta_order=0, cepstral_lifter=0, num_ceps=23),
        MfccConfig(delta_order=0, num_mel_bins=40, num_ceps=20, high_freq=-400),
    ],
    ids=lambda config: type(config).__name__,
)
def test_equals_kaldi_native_fbank_for_any_setting(config):
    check_parity(waveform_of("noise", 9000), config)


def test_frames_longer_than_one_piece_are_not_cut(monkeypatch):
    waveform = waveform_of("noise", 16000)[None]
    whole, _ = Mfcc()(waveform, torch.tensor([16000]))
    monkeypatch.setattr("toolkit.nn.features.FRAMES_AT_ONCE", 7)
    pieces, _ = Mfcc()(waveform, torch.tensor([16000]))
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("config", [FbankConfig(), MfccConfig()], ids=["fbank", "mfcc"])
def test_what_shares_the_batch_does_not_matter(config, snip_edges):
    extract = build(dataclasses.replace(config, snip_edges=snip_edges))
    lengths = torch.tensor([3000, 50, 8000, 0, 401, 80])
    waveforms = 0.1 * torch.randn(6, 9000)
    waveforms[0, 3000:] = torch.nan
    features, frame_lengths = extract(waveforms, lengths)
    assert features.shape == (6, extract.config.num_frames(9000), extract.dim)
    assert frame_lengths.dtype == torch.int64
    for row, waveform, size, count in zip(features, waveforms, lengths, frame_lengths, strict=True):
        alone, _ = extract(waveform[None, :size], size[None])
        torch.testing.assert_close(row[:count], alone[0], rtol=0, atol=0)
        assert (row[count:] == 0).all()


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("config", [FbankConfig(), MfccConfig()], ids=["fbank", "mfcc"])
def test_batched_path_equals_the_path_one_by_one(config, snip_edges):
    """What CUDA runs, on the CPU: one gather for the whole batch."""
    from toolkit.nn.spectral import extend_batch

    extract = build(dataclasses.replace(config, snip_edges=snip_edges))
    lengths = torch.tensor([3000, 90, 8000, 401])
    waveforms = 0.1 * torch.randn(4, 8000)
    expected, frame_lengths = extract(waveforms, lengths)
    span = extract.config.span(extract.config.num_frames(8000))
    batched = extract._features(extend_batch(waveforms, lengths, *span), frame_lengths)
    for row, other, count in zip(expected, batched, frame_lengths, strict=True):
        torch.testing.assert_close(row[:count], other[:count], rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("config", [FbankConfig(), MfccConfig()], ids=["fbank", "mfcc"])
def test_cuda_equals_cpu_without_a_host_sync(config):
    extract = build(config)
    lengths = torch.tensor([30000, 90, 80000, 401, 0])
    waveforms = 0.1 * torch.randn(5, 80000)
    expected, frame_lengths = extract(waveforms, lengths)
    extract, waveforms, lengths = extract.cuda(), waveforms.cuda(), lengths.cuda()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            features, cuda_frame_lengths = extract(waveforms, lengths)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.backends.cuda.matmul.allow_tf32 = False
    torch.testing.assert_close(features.cpu(), expected, rtol=0, atol=TOLERANCE)
    assert cuda_frame_lengths.tolist() == frame_lengths.tolist()


def test_low_precision_does_not_degrade_features():
    waveforms, lengths = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    expected, _ = Fbank()(waveforms, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = Fbank()(waveforms, lengths)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    assert torch.equal(Fbank().bfloat16()(waveforms, lengths)[0], expected)


def test_filters_stay_out_of_checkpoints_and_models_can_be_copied():
    extract = Mfcc()
    assert not extract.state_dict()
    assert copy.deepcopy(extract).dim == 39
    assert extract.frame_shift == 0.01


def test_gradients_reach_the_waveform():
    waveforms = (0.1 * torch.randn(2, 1600)).requires_grad_()
    Mfcc()(waveforms, torch.tensor([1600, 800]))[0].square().sum().backward()
    assert waveforms.grad[0].abs().sum() > 0
    assert (waveforms.grad[1, 800:] == 0).all()


def test_dither_is_for_training_only():
    extract = Fbank(FbankConfig(dither=1e-3))
    waveforms, lengths = torch.zeros(1, 1600), torch.tensor([1600])
    assert not torch.equal(extract(waveforms, lengths)[0], Fbank()(waveforms, lengths)[0])
    assert torch.equal(extract.eval()(waveforms, lengths)[0], Fbank()(waveforms, lengths)[0])


def slopes(x: np.ndarray, order: int, window: int) -> np.ndarray:
    """The last slope by its definition: weights over all sums of `order` offsets, edges repeated."""
    norm = sum(j * j for j in range(-window, window + 1))
    weights = {0: 1.0}
    for _ in range(order):
        longer: dict[int, float] = {}
        for offset, weight in weights.items():
            for j in range(-window, window + 1):
                longer[offset + j] = longer.get(offset + j, 0.0) + weight * j / norm
        weights = longer
    last = len(x) - 1
    return np.array(
        [sum(w * x[min(max(t + offset, 0), last)] for offset, w in weights.items()) for t in range(len(x))]
    )


@pytest.mark.parametrize("order, window", [(0, 2), (1, 2), (2, 2), (3, 1), (2, 3)])
def test_deltas_equal_their_definition(order, window):
    features, lengths = torch.randn(3, 15, 4), torch.tensor([15, 6, 1])
    deltas = add_deltas(features, lengths, order, window)
    assert deltas.shape == (3, 15, 4 * (1 + order))
    for row, x, count in zip(deltas, features, lengths.tolist(), strict=True):
        expected = np.concatenate([slopes(x[:count].numpy(), k, window) for k in range(order + 1)], axis=1)
        np.testing.assert_allclose(row[:count], expected, atol=1e-5)


def test_deltas_equal_torchaudio_away_from_the_edges():
    compute_deltas = pytest.importorskip("torchaudio.functional").compute_deltas
    features = torch.randn(1, 30, 5)
    first = compute_deltas(features.transpose(1, 2))
    expected = torch.cat([features, first.transpose(1, 2), compute_deltas(first).transpose(1, 2)], dim=2)
    deltas = add_deltas(features, torch.tensor([30]))
    torch.testing.assert_close(deltas[:, 4:-4], expected[:, 4:-4])


@pytest.mark.skipif(importlib.util.find_spec("kaldifeat") is None, reason="kaldifeat is not installed")
@pytest.mark.parametrize("config", [FbankConfig(), MfccConfig(), MfccConfig(use_energy=True)])
def test_kaldifeat_gives_the_same_numbers(config):
    waveforms, lengths = 0.1 * torch.randn(3, 16000), torch.tensor([16000, 5001, 30])
    expected, _ = build(config)(waveforms, lengths)
    features, _ = build(dataclasses.replace(config, backend="kaldifeat"))(waveforms, lengths)
    torch.testing.assert_close(features, expected, rtol=0, atol=TOLERANCE)


def test_a_missing_kaldifeat_is_said_and_auto_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldifeat", None)
    with pytest.raises(UserError, match="kaldifeat is not installed"):
        Fbank(FbankConfig(backend="kaldifeat"))
    assert Fbank(FbankConfig(backend="auto")).native


def test_a_broken_kaldifeat_is_said(monkeypatch, tmp_path):
    (tmp_path / "kaldifeat.py").write_text("raise ImportError('built for another torch')")
    monkeypatch.delitem(sys.modules, "kaldifeat", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="does not load .built for another torch"):
        Fbank(FbankConfig(backend="auto"))


@pytest.mark.parametrize(
    "key, value",
    [
        ("sample_rate", 0),
        ("num_mel_bins", 2),
        ("frame_length_ms", 0),
        ("frame_shift_ms", -1),
        ("low_freq", 9000),
        ("high_freq", 10),
        ("high_freq", 8001),
        ("window", "gauss"),
        ("preemphasis", 2),
        ("dither", -1),
        ("backend", "cuda"),
        ("num_ceps", 24),
        ("cepstral_lifter", -1),
        ("delta_order", -1),
        ("delta_window", 0),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(UserError, match=f"{key}: found {value!r}, expected"):
        MfccConfig(**{key: value})

"""The arithmetic of Kaldi's features: windows, mel filters, cosine transform, mirrored edges, deltas.

Dimension legend: B utterances, S samples, T frames, W samples in a window, N points of the Fourier transform,
M mel bins, C features a frame. Plain functions of tensors and numbers; `features.py` puts them together.

Source: Kaldi's documentation of its features, http://kaldi-asr.org/doc/feat.html; numbers are tested against
kaldi-native-fbank.
"""

import math

import numpy as np
import torch
from torch import Tensor

ENERGY_FLOOR = 2.0**-23
"""Kaldi's floor for energies before the logarithm, the float32 epsilon."""

WINDOWS = ("povey", "hanning", "hamming", "rectangular")


def make_window(kind: str, size: int) -> Tensor:
    """A window function (W,), float32; `kind` is one of WINDOWS, povey being hanning to the power of 0.85."""
    phase = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    hanning = 0.5 - 0.5 * phase.cos()
    kinds = {
        "povey": hanning**0.85,
        "hanning": hanning,
        "hamming": 0.54 - 0.46 * phase.cos(),
        "rectangular": torch.ones(size),
    }
    return kinds[kind].float()


def mel_filters(num_bins: int, fft_size: int, sample_rate: int, low: float, high: float) -> Tensor:
    """Triangles (N / 2 + 1, M) from `low` to `high` Hz, equally spaced in mel = 1127 ln(1 + f / 700)."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    first, last = mel(torch.tensor([low, high], dtype=torch.float64))
    width = (last - first) / (num_bins + 1)
    centres = first + width * torch.arange(1, num_bins + 1)
    points = mel(torch.arange(fft_size // 2 + 1, dtype=torch.float64) * sample_rate / fft_size)
    filters = (1 - (points[:, None] - centres).abs() / width).clamp(min=0)
    filters[-1] = 0  # Kaldi leaves out the point at half the sample rate.
    return filters.float()


def cosine_transform(num_ceps: int, num_bins: int, lifter: float) -> Tensor:
    """The first columns of the orthonormal DCT (M, C), times the cepstral lifter (0: no lifter)."""
    order = torch.arange(num_ceps, dtype=torch.float64)
    middle = torch.arange(num_bins, dtype=torch.float64)[:, None] + 0.5
    cosines = math.sqrt(2 / num_bins) * torch.cos(math.pi / num_bins * middle * order)
    cosines[:, 0] /= math.sqrt(2)
    if lifter > 0:
        cosines *= 1 + lifter / 2 * torch.sin(math.pi * order / lifter)
    return cosines.float()


def log_energy(frames: Tensor) -> Tensor:
    """Log of the summed squares of frames (..., W), as (..., 1)."""
    return frames.square().sum(-1, keepdim=True).clamp(min=ENERGY_FLOOR).log()


def log_mel(frames: Tensor, window: Tensor, preemphasis: float, filters: Tensor) -> Tensor:
    """Log energies (..., M) of the mel bins for frames (..., W)."""
    first = frames[..., :1] * (1 - preemphasis)
    rest = torch.sub(frames[..., 1:], frames[..., :-1], alpha=preemphasis)
    spectrum = torch.fft.rfft(torch.cat([first, rest], dim=-1) * window, 2 * (len(filters) - 1))
    power = spectrum.real.square() + spectrum.imag.square()
    return product(power, filters).clamp(min=ENERGY_FLOOR).log()


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix in full float32; on CUDA by way of float64, as TF32, where allowed, keeps ten bits only."""
    return (x.double() @ matrix.double()).float() if x.is_cuda else x @ matrix


def mirror(positions: Tensor, size: Tensor | int) -> Tensor:
    """Maps positions outside of [0, size) into it: -1 to 0, size to size - 1, as often as it takes."""
    positions = positions % (2 * size)
    return torch.minimum(positions, 2 * size - 1 - positions)


def extend(waveform: Tensor, start: int, stop: int) -> Tensor:
    """Samples [start, stop) of one utterance (S,), S > 0, mirrored at its ends."""
    size = len(waveform)
    before = mirror(torch.arange(min(start, 0), 0, device=waveform.device), size)
    after = mirror(torch.arange(size, max(size, stop), device=waveform.device), size)
    return torch.cat([waveform[before], waveform[max(start, 0) : stop], waveform[after]])


def extend_batch(waveforms: Tensor, lengths: Tensor, start: int, stop: int) -> Tensor:
    """`extend` for a padded batch (B, S), S > 0, each row mirrored at its own end, without a host sync."""
    positions = torch.arange(start, stop, device=waveforms.device)
    return waveforms.gather(1, mirror(positions, lengths.clamp(min=1)[:, None]))


def add_deltas(features: Tensor, lengths: Tensor, order: int = 2, window: int = 2) -> Tensor:
    """Puts slopes over time behind features, as Kaldi's add-deltas does.

    The first slope of x at t is sum_j j x[t + j] / sum_j j^2, j from -window to window; each further order
    applies that filter once more. Frames beyond either end of an utterance equal its first and its last.

    Args:
        features: (B, T, C).
        lengths: (B,), frames of each utterance.
        order: how many slopes to add.
        window: frames that a slope looks to each side.

    Returns:
        (B, T, C * (1 + order)); what lies past an utterance's length means nothing.
    """
    slope = np.arange(-window, window + 1) / np.square(np.arange(-window, window + 1)).sum()
    taps = [np.ones(1)]
    for _ in range(order):
        taps.append(np.convolve(taps[-1], slope))
    reach = order * window
    weights = torch.from_numpy(np.stack([np.pad(tap, reach - len(tap) // 2) for tap in taps], axis=1))

    times = torch.arange(-reach, features.shape[1] + reach, device=features.device).clamp(min=0)
    times = torch.minimum(times, (lengths.to(times.device) - 1).clamp(min=0)[:, None])
    extended = features.gather(1, times[:, :, None].expand(-1, -1, features.shape[2]))
    slopes = product(extended.unfold(1, 2 * reach + 1, 1), weights.to(features, non_blocking=True))
    return slopes.transpose(2, 3).flatten(2)

"""Convolutions with wide kernels through the Fourier transform.

Dimensions: B batch, T frames, D channels, G groups, C = D / G channels of a group, K kernel size, N = 2K points of a
transform, F = K + 1 frequencies, M blocks of frames.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad


def fourier_convolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """What `conv1d` gives with K // 2 zeros to the left, by overlapping blocks; fewer products, the wider the kernel.

    The transforms are themselves matrix products: at these sizes those are faster than a fast Fourier transform, and
    their results lie in memory as the products of the spectra want them.

    Args:
        x: (B, T, D).
        weight: (D, C, K).
        groups: G.

    Returns:
        (B, T, D).
    """
    batch, frames, dim = x.shape
    size = weight.shape[2]
    # So many frames of a block have nothing of its other end in them.
    step = size + 1
    blocks = -(-frames // step)
    before = size // 2
    x = pad(x, (0, 0, before, blocks * step + size - 1 - frames - before))
    x = x.unfold(1, 2 * size, step).transpose(2, 3).flatten(0, 1)
    forward, inverse = transforms(size, x.dtype, x.device)
    # (2, F * G, B * M, C) and (2, F * G, C, C): a product for each frequency and group.
    x = torch.matmul(forward, x).view(-1, 2, size + 1, groups, dim // groups)
    cosines, sines = x.permute(1, 2, 3, 0, 4).flatten(1, 2)
    taps = weight.view(groups, dim // groups, -1, size).permute(3, 0, 2, 1).flatten(1)
    weight_cosines, weight_sines = (forward[:, :size] @ taps).view(2, -1, weight.shape[1], weight.shape[1])
    # x times the conjugate of the weight.
    real = torch.baddbmm(torch.bmm(cosines, weight_cosines), sines, weight_sines)
    imaginary = torch.baddbmm(torch.bmm(sines, weight_cosines), cosines, weight_sines, alpha=-1)
    spectrum = torch.stack([real, imaginary]).view(2, size + 1, groups, -1, dim // groups)
    spectrum = spectrum.permute(3, 0, 1, 2, 4).reshape(batch * blocks, -1, dim)
    return torch.matmul(inverse, spectrum).view(batch, -1, dim)[:, :frames]


def transforms(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The cosine and sine transform of N = 2K real points (2F, N), and the inverse at the first K + 1 (K + 1, 2F)."""
    points = torch.arange(2 * size, device=device)
    frequencies = torch.arange(size + 1, device=device)
    # Exact multiples of the smallest angle, below a full turn.
    angles = (frequencies[:, None] * points % (2 * size)).double() * (math.pi / size)
    both = torch.stack([angles.cos(), angles.sin()])
    # All but the lowest and the highest frequency stand for two.
    counts = torch.full((size + 1, 1), 2.0, dtype=torch.float64, device=device)
    counts[0] = counts[-1] = 1.0
    inverse = (both * counts / (2 * size))[:, :, : size + 1].flatten(0, 1).t()
    return both.flatten(0, 1).to(dtype), inverse.to(dtype)

"""Front end of wav2vec 2.0, HuBERT and their kin: learned convolutions over samples.

Dimensions: B batch, S samples, T feature frames, F features.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from toolkit.nn.gradients import scale_gradient
from toolkit.nn.masks import valid_mask
from toolkit.nn.strided import FirstConv, StridedConv


@dataclass
class WaveformFrontendConfig:
    """A stack of strided convolutions with GELU (wav2vec 2.0, arXiv 2006.11477, section 2)."""

    name: str = "waveform"
    """Which front end this is."""
    sample_rate: int = 16000
    """Samples a second of the audio."""
    dims: list[int] = field(default_factory=lambda: [512] * 7)
    """Output channels of each convolution; the last is F."""
    kernels: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    """Kernel size of each convolution."""
    strides: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    """Stride of each convolution; their product is the number of samples from one frame to the next."""
    norm: Literal["group", "layer"] = "group"
    """group: each channel of the first convolution over time; layer: every frame of every convolution."""
    bias: bool = False
    """Whether the convolutions have a bias."""
    normalize: bool = True
    """Whether each utterance's samples are shifted and scaled to zero mean and unit variance first."""
    feature_grad_mult: float = 0.1
    """What the gradient into the front end is multiplied by; 0 freezes it."""

    def __post_init__(self) -> None:
        if not len(self.dims) == len(self.kernels) == len(self.strides) > 0:
            raise ValueError(
                "dims, kernels and strides must be of one length, got "
                f"{len(self.dims)}, {len(self.kernels)} and {len(self.strides)}"
            )
        for name in ("dims", "kernels", "strides"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            if kernel < stride:
                raise ValueError(f"kernels must be at least as large as strides, got {kernel} and {stride}")
        if self.sample_rate < 8000:
            raise ValueError(f"sample_rate must be at least 8000, got {self.sample_rate}")
        if self.feature_grad_mult < 0:
            raise ValueError(f"feature_grad_mult must not be negative, got {self.feature_grad_mult}")


class WaveformFrontend(nn.Module):
    """Learned features, one frame every 20 ms by default.

    An utterance's features are what the same utterance would give alone: no convolution pads, and the group norm takes
    its statistics from the utterance's own frames.
    """

    Config = WaveformFrontendConfig

    def __init__(self, config: WaveformFrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dims[-1]
        self.least_samples = least_samples(config.kernels, config.strides)
        self.frame_shift = math.prod(config.strides) / config.sample_rate
        first, *rest = zip(config.dims, config.kernels, config.strides, strict=True)
        convs: list[nn.Module] = [FirstConv(*first, config.bias, norm=config.norm == "group")]
        for width, shape in zip(config.dims, rest, strict=False):
            convs.append(StridedConv(width, *shape, config.bias))
        self.convs = nn.ModuleList(convs)
        layer = config.norm == "layer"
        self.norms = nn.ModuleList(nn.LayerNorm(dim) if layer else nn.Identity() for dim in config.dims)
        self.requires_grad_(config.feature_grad_mult > 0)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples and (B,) lengths to (B, T, F) features and (B,) lengths.

        T is at least 1: what is too short for a frame is filled up with zeros, but its length is 0.
        """
        if self.config.normalize:
            waveforms = normalize(waveforms, lengths)
        if waveforms.shape[1] < self.least_samples:
            waveforms = pad(waveforms, (0, self.least_samples - waveforms.shape[1]))
        first, *rest = self.convs
        kernel, stride = self.config.kernels[0], self.config.strides[0]
        x = self.norms[0](first(waveforms, conv_length(lengths, kernel, stride)))
        for conv, norm in zip(rest, self.norms[1:], strict=True):
            x = norm(conv(x))
        return scale_gradient(gelu(x), self.config.feature_grad_mult), self.output_lengths(lengths)

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Feature frames for a number of samples, or for each of (B,) int64."""
        for kernel, stride in zip(self.config.kernels, self.config.strides, strict=True):
            lengths = conv_length(lengths, kernel, stride)
        return lengths


def conv_length(lengths: int | Tensor, kernel: int, stride: int) -> int | Tensor:
    """Windows that fit into a number of frames, or into each of (B,) int64."""
    found = (lengths - kernel) // stride + 1
    return found * (found > 0)


def least_samples(kernels: list[int], strides: list[int]) -> int:
    """Samples that give one frame after all convolutions."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


def normalize(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Shifts and scales the valid samples of each utterance (B, S) to zero mean and unit variance; the others are 0."""
    with torch.autocast(waveforms.device.type, enabled=False):
        valid = valid_mask(lengths, waveforms.shape[1])
        count = lengths.clamp(min=1)[:, None]
        mean = torch.where(valid, waveforms, 0.0).sum(1, keepdim=True) / count
        centred = torch.where(valid, waveforms - mean, 0.0)
        return centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()

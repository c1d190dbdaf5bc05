"""Front ends: from samples to features.

Dimensions: B batch, S samples, T feature frames, F features.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from toolkit.nn.features import Fbank, FbankConfig
from toolkit.nn.masks import valid_mask


@dataclass
class FbankFrontendConfig:
    """Log-mel filterbank energies as in Kaldi."""

    name: str = "fbank"
    """Which front end this is."""
    sample_rate: int = 16000
    """Samples a second of the audio."""
    num_mel_bins: int = 80
    """Features a frame; one frame every 10 ms."""
    backend: Literal["native", "kaldifeat", "auto"] = "native"
    """What computes them; "auto" takes kaldifeat where it is installed. All give the same numbers."""
    normalize: bool = True
    """Whether they are shifted and scaled to zero mean and unit variance over each utterance."""

    def __post_init__(self) -> None:
        if self.sample_rate < 8000 or self.num_mel_bins < 8:
            raise ValueError("sample_rate must be at least 8000 and num_mel_bins at least 8")


class FbankFrontend(nn.Module):
    """Filterbank energies, normalised or not.

    One mean and one variance of an utterance serve all bins: the level of the recording goes, the shape of the
    spectrum stays, which matters for utterances of a single word.
    """

    Config = FbankFrontendConfig

    def __init__(self, config: FbankFrontendConfig) -> None:
        super().__init__()
        self.fbank = Fbank(
            FbankConfig(
                sample_rate=config.sample_rate, num_mel_bins=config.num_mel_bins, backend=config.backend
            )
        )
        self.normalize = config.normalize
        self.dim = config.num_mel_bins
        self.frame_shift = 0.01

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples and (B,) lengths to (B, T, F) float32 features and (B,) lengths."""
        with torch.no_grad():
            features, frames = self.fbank(waveforms, lengths)
            return self.normalized(features, frames) if self.normalize else features, frames

    def normalized(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, T, F) filter bank energies, (B,) of whose frames are valid, shifted and scaled; 0 past those."""
        valid = valid_mask(frames, features.shape[1])[:, :, None]
        count = (frames * self.dim).clamp(min=1)[:, None, None]
        mean = (features * valid).sum((1, 2), keepdim=True) / count
        centred = (features - mean) * valid
        deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
        return centred / deviation.clamp(min=1e-3)

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Feature frames for a number of samples, or for each of (B,) int64."""
        return self.fbank.output_lengths(lengths)

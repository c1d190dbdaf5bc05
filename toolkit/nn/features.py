"""Kaldi-compatible filter banks and MFCC on any device, from padded batches of waveforms.

Dimension legend: B utterances, S samples, T frames, W samples in a window, M mel bins, C cepstral
coefficients, F features a frame.

Samples are in [-1, 1]. An utterance's features do not depend on what shares its batch, and rows past its own
last frame hold 0. Energies are floored at 2^-23 before the logarithm: digital silence gives -15.94.

Time: with `snip_edges=False` an utterance of S samples gives round(S / shift) frames, frame i is centred at
sample (i + 1/2) * shift, and samples missing at either end are those of the utterance mirrored there. With
`snip_edges=True` only whole windows count: 1 + (S - W) // shift frames, none if S < W.

Source: Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; http://kaldi-asr.org/doc/feat.html.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.nn.eager import eager_on_cpu
from toolkit.nn.spectral import (
    WINDOWS,
    add_deltas,
    cosine_transform,
    extend,
    extend_batch,
    log_energy,
    log_mel,
    make_window,
    mel_filters,
    product,
)

__all__ = ["Fbank", "FbankConfig", "FrameConfig", "Mfcc", "MfccConfig", "add_deltas"]

BACKENDS = ("native", "kaldifeat", "auto")

FRAMES_AT_ONCE = 2048
"""Frames computed at a time on the CPU, so that a long recording takes little memory."""


def _check(config: "FrameConfig", key: str, fine: bool, expected: str) -> None:
    if not fine:
        raise UserError(f"{key}: found {getattr(config, key)!r}, expected {expected}")


@dataclass
class FrameConfig:
    """What filter banks and MFCC share: how a waveform is cut into frames and how a frame is windowed."""

    sample_rate: int = 16000
    """Samples a second."""
    num_mel_bins: int = 80
    """Triangular filters, equally spaced on the mel scale."""
    frame_length_ms: float = 25.0
    """Window length, milliseconds."""
    frame_shift_ms: float = 10.0
    """From one frame to the next, milliseconds."""
    low_freq: float = 20.0
    """Lower edge of the first filter, Hz."""
    high_freq: float = -400.0
    """Upper edge of the last filter, Hz; zero or less counts from half the sample rate."""
    window: str = "povey"
    """povey, hanning, hamming or rectangular."""
    preemphasis: float = 0.97
    """Each sample less this times the one before."""
    remove_dc_offset: bool = True
    """Subtract each window's mean."""
    dither: float = 0.0
    """Standard deviation of Gaussian noise added to each window, in training mode only."""
    snip_edges: bool = False
    """Whether only whole windows make frames."""
    use_energy: bool = False
    """Fbank: put the window's log energy before the mel bins. MFCC: in place of the first coefficient."""
    backend: str = "native"
    """native, kaldifeat (must be installed), or auto (kaldifeat where it is installed)."""

    def __post_init__(self) -> None:
        nyquist = self.sample_rate / 2
        _check(self, "sample_rate", self.sample_rate > 0, "above 0")
        _check(self, "num_mel_bins", self.num_mel_bins > 2, "at least 3")
        _check(self, "frame_length_ms", self.window_size > 1, "at least two samples")
        _check(self, "frame_shift_ms", self.window_shift > 0, "at least one sample")
        _check(self, "low_freq", 0 <= self.low_freq < nyquist, f"from 0 to below {nyquist:g}")
        _check(self, "high_freq", self.low_freq < self.top_freq <= nyquist, f"low_freq to {nyquist:g}")
        _check(self, "window", self.window in WINDOWS, f"one of {', '.join(WINDOWS)}")
        _check(self, "preemphasis", 0 <= self.preemphasis <= 1, "from 0 to 1")
        _check(self, "dither", self.dither >= 0, "0 or more")
        _check(self, "backend", self.backend in BACKENDS, f"one of {', '.join(BACKENDS)}")
        _check(self, "backend", self.backend == "native" or self.dither == 0, "native, as there is dither")

    @property
    def window_size(self) -> int:
        """W, samples in a window."""
        return round(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def window_shift(self) -> int:
        """Samples from one frame to the next."""
        return round(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def fft_size(self) -> int:
        """N, the window's length rounded up to a power of two."""
        return 1 << (self.window_size - 1).bit_length()

    @property
    def top_freq(self) -> float:
        """Upper edge of the last filter, Hz."""
        return self.high_freq if self.high_freq > 0 else self.sample_rate / 2 + self.high_freq

    def span(self, num_frames: int) -> tuple[int, int]:
        """The first sample that the frames cover (negative: before the start) and the one past the last."""
        start = 0 if self.snip_edges else self.window_shift // 2 - self.window_size // 2
        return start, start + (num_frames - 1) * self.window_shift + self.window_size

    def num_frames(self, samples: int | Tensor) -> int | Tensor:
        """Frames that an utterance of so many samples gives; works on numbers and on integer tensors."""
        if self.snip_edges:
            frames = (samples - self.window_size) // self.window_shift + 1
            return frames * (frames > 0)
        return (samples + self.window_shift // 2) // self.window_shift


@dataclass
class FbankConfig(FrameConfig):
    """Log mel filter banks, as icefall and sherpa use them."""


@dataclass
class MfccConfig(FrameConfig):
    """Mel-frequency cepstra with deltas: 39 features a frame, as HuBERT's first k-means uses them."""

    num_mel_bins: int = 23
    """Triangular filters, equally spaced on the mel scale."""
    high_freq: float = 0.0
    """Upper edge of the last filter, Hz; zero or less counts from half the sample rate."""
    num_ceps: int = 13
    """C, cepstral coefficients kept, with the zeroth."""
    cepstral_lifter: float = 22.0
    """Scales the higher coefficients up; 0 leaves them as they are."""
    delta_order: int = 2
    """0: none, 1: deltas, 2: deltas and their deltas."""
    delta_window: int = 2
    """Frames that a delta looks to each side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            self,
            "num_ceps",
            0 < self.num_ceps <= self.num_mel_bins,
            "1 to num_mel_bins",
        )
        _check(self, "cepstral_lifter", self.cepstral_lifter >= 0, "0 or more")
        _check(self, "delta_order", self.delta_order >= 0, "0 or more")
        _check(self, "delta_window", self.delta_window > 0, "1 or more")


class Fbank(nn.Module):
    """Log mel filter banks.

    Raises:
        UserError: for `backend="kaldifeat"` where kaldifeat is not installed.
    """

    def __init__(self, config: FbankConfig | None = None) -> None:
        super().__init__()
        self.config = config = config if config is not None else FbankConfig()
        self.native = not _use_kaldifeat(config.backend)
        filters = mel_filters(
            config.num_mel_bins, config.fft_size, config.sample_rate, config.low_freq, config.top_freq
        )
        self.register_buffer("window", make_window(config.window, config.window_size), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    @property
    def dim(self) -> int:
        """F, features a frame."""
        return self.config.num_mel_bins + self.config.use_energy

    @property
    def frame_shift(self) -> float:
        """Seconds from one frame to the next."""
        return self.config.window_shift / self.config.sample_rate

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Frames for a number of samples, or for each of (B,) int64."""
        return self.config.num_frames(lengths)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes features in float32, under autocast too.

        Args:
            waveforms: (B, S), samples in [-1, 1]; what lies past an utterance's length is not read.
            lengths: (B,) int64, samples of each utterance, at most S.

        Returns:
            features (B, T, F), where T is the number of frames of S samples, and frame lengths (B,), int64.
        """
        num_frames = self.config.num_frames(waveforms.shape[1])
        frame_lengths = self.output_lengths(lengths)
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.float()
            if self.native and num_frames > 0 and not eager_on_cpu(waveforms):
                extended = extend_batch(waveforms, lengths, *self.config.span(num_frames))
                features = self._features(extended, frame_lengths)
                padding = torch.arange(num_frames, device=waveforms.device) >= frame_lengths[:, None]
                return features.masked_fill(padding[:, :, None], 0.0), frame_lengths
            # One by one: on a CPU a padded batch is slower: more to compute, less of it in cache.
            features = waveforms.new_zeros(len(waveforms), num_frames, self.dim)
            for i, samples in enumerate(lengths.tolist()):
                if count := self.config.num_frames(samples):
                    features[i, :count] = self._utterance(waveforms[i, :samples], count)
            return features, frame_lengths

    def _utterance(self, waveform: Tensor, num_frames: int) -> Tensor:
        """Features (T, F) of one utterance (S,)."""
        frame_lengths = torch.tensor([num_frames], device=waveform.device)
        if self.native:
            extended = extend(waveform, *self.config.span(num_frames))
            return self._features(extended[None], frame_lengths)[0]
        return self._over_time(_kaldifeat(self.config, waveform.device)(waveform)[None], frame_lengths)[0]

    def _features(self, extended: Tensor, frame_lengths: Tensor) -> Tensor:
        """Features (B, T, F) of waveforms that hold just the samples of their frames."""
        frames = extended.unfold(1, self.config.window_size, self.config.window_shift)
        chunks = frames.split(FRAMES_AT_ONCE, dim=1) if eager_on_cpu(frames) else [frames]
        return self._over_time(torch.cat([self._per_frame(chunk) for chunk in chunks], dim=1), frame_lengths)

    def _per_frame(self, frames: Tensor) -> Tensor:
        """Features (B, T, F) of frames (B, T, W)."""
        config = self.config
        if config.dither > 0 and self.training:
            frames = frames + config.dither * torch.randn_like(frames)
        if config.remove_dc_offset:
            frames = frames - frames.mean(-1, keepdim=True)
        bins = log_mel(frames, self.window, config.preemphasis, self.filters)
        return self._compose(bins, log_energy(frames) if config.use_energy else None)

    def _compose(self, bins: Tensor, energy: Tensor | None) -> Tensor:
        """Features (B, T, F) of log mel bins (B, T, M) and log energies (B, T, 1), where they are wanted."""
        return bins if energy is None else torch.cat([energy, bins], dim=-1)

    def _over_time(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        """What looks at neighbouring frames, (B, T, C) -> (B, T, F); nothing for filter banks."""
        return features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fbank":
        # Of a conversion only the device counts: model.half() or model.bfloat16() must not round the filters.
        return super()._apply(lambda buffer: buffer.to(fn(buffer[:0]).device), recurse)


class Mfcc(Fbank):
    """Mel-frequency cepstral coefficients, with deltas behind them.

    Raises:
        UserError: for `backend="kaldifeat"` where kaldifeat is not installed.
    """

    def __init__(self, config: MfccConfig | None = None) -> None:
        super().__init__(config if config is not None else MfccConfig())
        cosines = cosine_transform(
            self.config.num_ceps, self.config.num_mel_bins, self.config.cepstral_lifter
        )
        self.register_buffer("cosines", cosines, persistent=False)

    @property
    def dim(self) -> int:
        """F, features a frame: coefficients, their deltas, the deltas' deltas."""
        return self.config.num_ceps * (1 + self.config.delta_order)

    def _compose(self, bins: Tensor, energy: Tensor | None) -> Tensor:
        cepstra = product(bins, self.cosines)
        return cepstra if energy is None else torch.cat([energy, cepstra[..., 1:]], dim=-1)

    def _over_time(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        return add_deltas(features, frame_lengths, self.config.delta_order, self.config.delta_window)


def _use_kaldifeat(backend: str) -> bool:
    """Whether kaldifeat computes; UserError where it is wanted and does not load."""
    if backend == "native":
        return False
    try:
        importlib.import_module("kaldifeat")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "kaldifeat"
        if backend == "auto" and absent:
            return False
        reason = "is not installed" if absent else f"does not load ({error})"
        raise UserError(f"backend: found {backend!r}, but kaldifeat {reason}; expected native") from None
    return True


def _kaldifeat(config: FrameConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """kaldifeat's function from an utterance (S,) to features (T, F), without deltas."""
    import kaldifeat

    cepstral = isinstance(config, MfccConfig)
    options = kaldifeat.MfccOptions() if cepstral else kaldifeat.FbankOptions()
    options.device = device
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_length_ms
    options.frame_opts.frame_shift_ms = config.frame_shift_ms
    options.frame_opts.window_type = config.window
    options.frame_opts.preemph_coeff = config.preemphasis
    options.frame_opts.remove_dc_offset = config.remove_dc_offset
    options.frame_opts.snip_edges = config.snip_edges
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = config.num_mel_bins
    options.mel_opts.low_freq = config.low_freq
    options.mel_opts.high_freq = config.high_freq
    options.use_energy = config.use_energy
    if cepstral:
        options.num_ceps = config.num_ceps
        options.cepstral_lifter = config.cepstral_lifter
    return (kaldifeat.Mfcc if cepstral else kaldifeat.Fbank)(options)

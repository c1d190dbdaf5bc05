"""What a student hears in place of the clean waveforms from which its targets come.

Pieces of other utterances and of noise are mixed in (WavLM, arXiv 2110.13900, algorithm 1; UniSpeech-SAT,
arXiv 2110.05752), and the whole utterance may be augmented (wav2vec-Aug, arXiv 2206.13654).

Dimensions: B utterances, S samples.
"""

import math
import random
from dataclasses import dataclass, field

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.data.audio import BadAudio, audio_paths, load_audio
from toolkit.data.augment import AugmentConfig, augment, load_effects
from toolkit.data.validate import skipped_row


@dataclass
class ViewConfig:
    """How the student's view differs from the clean waveforms; by default not at all."""

    mix_prob: float = 0.0
    """Share of utterances into which a piece of something else is mixed, such as 0.2."""
    noise: str | None = None
    """A manifest of cuts with noise, of which some pieces are; null takes all from other utterances of the batch."""
    noise_prob: float = 0.1
    """Share of the pieces that are noise, if there is any."""
    speech_ratio: tuple[float, float] = (-5.0, 5.0)
    """Range of the energy of an utterance over that of speech mixed into it, in dB."""
    noise_ratio: tuple[float, float] = (-5.0, 20.0)
    """The same for noise."""
    max_share: float = 0.5
    """Most of an utterance that a piece covers."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes to the student's view alone, before anything is mixed in; without speed."""

    def __post_init__(self) -> None:
        for name in ("mix_prob", "noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share must be in (0, 1], got {self.max_share}")
        for name in ("speech_ratio", "noise_ratio"):
            if getattr(self, name)[0] > getattr(self, name)[1]:
                raise ValueError(f"{name} must have its lower limit first, got {list(getattr(self, name))}")
        if self.augment.speed:
            raise ValueError(
                f"augment.speed must be empty, as the view keeps step with its targets, got {self.augment.speed}"
            )

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        changed = self.augment
        return bool(self.mix_prob or changed.volume_db or changed.reverb or changed.noise)


def student_views(
    cuts: list[Cut],
    waveforms: Tensor,
    lengths: Tensor,
    config: ViewConfig,
    rng: random.Random,
    skipped: list[dict[str, str]],
) -> Tensor | None:
    """Makes the student's view of a batch.

    Args:
        cuts: B of them, or none for a placeholder, which stays as it is.
        waveforms: (B, S) their samples, zero past the end; left as they are.
        lengths: (B,) valid samples.
        config: what to do.
        rng: the only source of randomness.
        skipped: gets a row for each recording (of noise, say) that could not be read; nothing is done with it then.

    Returns:
        (B, S) samples, zero past the end; None if nothing is ever changed.

    Raises:
        UserError: a manifest that is missing or not valid.
    """
    if not config.changes:
        return None
    views = waveforms.clone()
    changed = augment(CutSet.from_cuts(cuts), config.augment, rng) if cuts else []
    for row, (before, after) in enumerate(zip(cuts, changed, strict=True)):
        if after is not before and (samples := _read(after, skipped)) is not None:
            views[row, : len(samples)] = samples
    for row, (cut, length) in enumerate(zip(cuts, lengths.tolist(), strict=False)):
        if rng.random() < config.mix_prob:
            size = rng.randint(1, max(1, int(config.max_share * length)))
            if config.noise and rng.random() < config.noise_prob:
                piece = _noise_piece(config.noise, cut.sampling_rate, size, rng, skipped)
                energy, limits = piece.square().mean(), config.noise_ratio
            else:
                piece, energy = _speech_piece(waveforms, lengths, row, size, rng)
                limits = config.speech_ratio
            _mix(views[row, :length], piece, energy, rng.uniform(*limits), rng)
    return views


def _speech_piece(
    waveforms: Tensor, lengths: Tensor, row: int, size: int, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Up to `size` samples of another utterance and that utterance's mean energy; none if there is no other."""
    if len(waveforms) == 1:
        return waveforms[0, :0], torch.zeros(())
    other = (row + rng.randint(1, len(waveforms) - 1)) % len(waveforms)
    source = waveforms[other, : lengths[other]]
    start = rng.randint(0, max(0, len(source) - size))
    return source[start : start + size], source.square().mean()


def _noise_piece(
    manifest: str, rate: int, size: int, rng: random.Random, skipped: list[dict[str, str]]
) -> Tensor:
    """Up to `size` samples of a random place in a random recording; none if it cannot be read."""
    noise = rng.choice(load_effects(manifest)).resample(rate)
    if noise.num_samples > size:
        start = rng.randint(0, noise.num_samples - size)
        noise = noise.truncate(offset=start / rate, duration=size / rate, preserve_id=True)
    samples = _read(noise, skipped)
    return torch.zeros(0) if samples is None else samples


def _mix(view: Tensor, piece: Tensor, energy: Tensor, ratio: float, rng: random.Random) -> None:
    """Adds a piece to a view (S,) at a random place, `ratio` dB below it; `energy` is what stands for the piece's."""
    start = rng.randint(0, len(view) - len(piece))
    if len(piece) and energy > 0:
        scale = math.sqrt(float(view.square().mean() / energy)) * 10 ** (-ratio / 20)
        view[start : start + len(piece)] += scale * piece


def _read(cut: Cut, skipped: list[dict[str, str]]) -> Tensor | None:
    try:
        return torch.from_numpy(load_audio(cut))
    except BadAudio as error:
        skipped.append(
            skipped_row(cut.id, ", ".join(audio_paths(cut)), f"{error.reason} (in a student's view)")
        )
        return None

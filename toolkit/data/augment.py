"""Augmentation of waveforms: speed, volume, reverberation and noise, applied by Lhotse as the audio is read.

All randomness comes from the generator that is passed in. Lhotse's random impulse responses do not keep to
their seeds, as they also draw from torch's global generator while audio is read; so they are drawn here.
"""

import functools
import io
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.data.audio import audio_paths, first_line
from toolkit.data.manifests import open_cuts
from toolkit.errors import UserError

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.cut import Cut

RANDOM_ROOM = "random"
SHORTEST_NOISE = 0.05
"""Seconds; no piece of noise is cut shorter than this."""


@dataclass
class AugmentConfig:
    """What is done to each cut, in this order; by default nothing."""

    speed: list[float] = field(default_factory=list)
    """Speed factors, one of which is picked, such as [0.9, 1.0, 1.1]; pitch and duration change with it."""
    volume_db: tuple[float, float] | None = None
    """Range of the gain in dB, such as [-10, 6]."""
    volume_prob: float = 0.5
    """Share of cuts whose volume changes."""
    reverb: str | None = None
    """Impulse responses: a manifest of cuts, or "random" for rooms made up on the fly."""
    reverb_prob: float = 0.5
    """Share of cuts that get reverberation."""
    noise: str | None = None
    """A manifest of cuts with noise, which is repeated as needed."""
    noise_prob: float = 0.5
    """Share of cuts that get noise."""
    noise_snr: tuple[float, float] = (5.0, 20.0)
    """Range of the signal-to-noise ratio in dB."""

    def __post_init__(self) -> None:
        if any(not 0.3 <= factor <= 3 for factor in self.speed):
            raise UserError(f"speed: found {self.speed}, expected factors from 0.3 to 3")
        for name in ("volume_prob", "reverb_prob", "noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: found {getattr(self, name)}, expected 0 to 1")
        for name in ("volume_db", "noise_snr"):
            limits = getattr(self, name)
            if limits is not None and limits[0] > limits[1]:
                raise UserError(f"{name}: found {list(limits)}, expected the lower limit first")


def augment(cuts: "CutSet", config: AugmentConfig, rng: random.Random) -> "CutSet":
    """Augments each cut at random; ids stay as they are.

    Args:
        cuts: cuts with recordings. Lhotse drops the effects (rooms, say) of a mixture when it changes speed
            or volume, so these two are refused there.
        config: what to do.
        rng: the only source of randomness: equal generators give equal audio.

    Raises:
        UserError: a manifest that is missing or not valid; a cut that cannot be changed as asked.
    """
    from lhotse import CutSet

    return CutSet.from_cuts(_augment_or_tell(cut, config, rng) for cut in cuts)


def _augment_or_tell(cut: "Cut", config: AugmentConfig, rng: random.Random) -> "Cut":
    try:
        return _augment(cut, config, rng)
    except UserError:
        raise
    except (AssertionError, ValueError, KeyError) as error:
        source = ", ".join(audio_paths(cut)) or "no file"
        raise UserError(f"cut {cut.id} ({source}): cannot be augmented: {first_line(error)}") from None


def _augment(cut: "Cut", config: AugmentConfig, rng: random.Random) -> "Cut":
    if config.speed:
        cut = change_speed(cut, rng.choice(config.speed))
    if config.volume_db and rng.random() < config.volume_prob:
        _refuse_effects(cut, "volume_db")
        cut = cut.perturb_volume(10 ** (rng.uniform(*config.volume_db) / 20), affix_id=False)
    if config.reverb and rng.random() < config.reverb_prob:
        if config.reverb == RANDOM_ROOM:
            room = random_room(cut.sampling_rate, rng)
        else:
            room = rng.choice(load_effects(config.reverb)).recording.resample(cut.sampling_rate)
        cut = cut.reverb_rir(room, affix_id=False)
    if config.noise and rng.random() < config.noise_prob:
        cut = add_noise(cut, load_effects(config.noise), rng.uniform(*config.noise_snr), rng)
    return cut


def change_speed(cut: "Cut", factor: float) -> "Cut":
    """Plays a cut `factor` times as fast.

    Raises:
        UserError: the cut has frame labels, or is mixed with effects; neither would follow.
    """
    if factor == 1:
        return cut
    _refuse_effects(cut, "speed")
    for track in getattr(cut, "tracks", None) or [cut]:
        custom = getattr(getattr(track, "cut", track), "custom", None) or {}
        arrays = [name for name, value in custom.items() if hasattr(value, "temporal_dim")]
        if arrays:
            raise UserError(
                f"speed: cut {cut.id} has '{arrays[0]}' for each frame, expected no change of speed"
            )
    return cut.perturb_speed(factor, affix_id=False)


def _refuse_effects(cut: "Cut", key: str) -> None:
    if getattr(cut, "tracks", None) and cut.transforms:
        raise UserError(
            f"{key}: cut {cut.id} is a mixture with effects, which Lhotse would drop; expected none"
        )


def add_noise(cut: "Cut", noises: list["MonoCut"], snr: float, rng: random.Random) -> "Cut":
    """Mixes noise into a cut, from its start to its end; duration and supervisions do not change.

    Args:
        cut: the speech.
        noises: picked at random, one after the other until they fill the cut; long ones from a random place.
        snr: signal-to-noise ratio in dB.
        rng: picks noises and places.
    """
    from lhotse.utils import fastcopy

    mixed, filled = cut, 0.0
    while cut.duration - filled > SHORTEST_NOISE:
        noise = fastcopy(rng.choice(noises), supervisions=[], custom=None).resample(cut.sampling_rate)
        wanted = round(cut.duration - filled, ndigits=8)
        if noise.duration > wanted:
            start = rng.uniform(0, noise.duration - wanted)
            noise = noise.truncate(offset=start, duration=wanted, preserve_id=True)
        mixed = mixed.mix(noise, offset_other_by=filled, snr=snr, preserve_id="left")
        filled = round(filled + noise.duration, ndigits=8)
    return mixed


def random_room(sampling_rate: int, rng: random.Random) -> "Recording":
    """Makes up the impulse response of a room (Luo and Yu, arXiv 2208.04101), held in memory."""
    import soundfile
    import torch
    from lhotse import Recording
    from lhotse.augmentation.utils import FastRandomRIRGenerator

    seed = rng.getrandbits(32)
    make = FastRandomRIRGenerator(sr=sampling_rate, room_seed=seed, source_seed=seed)
    # Lhotse adds reflections that fall on one sample by indexing, which several threads do in any order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            response = make(nsource=1)[0]
    finally:
        torch.set_num_threads(threads)
    packed = io.BytesIO()
    soundfile.write(packed, response, sampling_rate, format="WAV", subtype="FLOAT")
    return Recording.from_bytes(packed.getvalue(), f"room-{seed}")


@functools.cache
def load_effects(manifest: str) -> list["MonoCut"]:
    """The cuts of a manifest of noises or impulse responses, read once a process."""
    from lhotse import MonoCut

    cuts = list(open_cuts(manifest))
    for cut in cuts:
        if not isinstance(cut, MonoCut):
            raise UserError(f"{manifest}: cut {cut.id} is a {type(cut).__name__}, expected MonoCut")
    return cuts

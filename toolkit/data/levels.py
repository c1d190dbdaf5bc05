"""How loud and how clean samples are, and which are refused."""

import math
from dataclasses import dataclass

import numpy as np

from toolkit.errors import UserError


@dataclass
class Limits:
    """What samples are refused for."""

    max_clipped: float = 0.05
    """Largest share of samples at full scale."""
    min_level: float = -70.0
    """Lowest level (root mean square) in dB relative to full scale."""

    def __post_init__(self):
        if not 0 <= self.max_clipped <= 1:
            raise UserError(f"max_clipped: found {self.max_clipped}, expected a share from 0 to 1")


class Meter:
    """Measures samples block by block, so that a file of any length can be judged in little memory."""

    def __init__(self):
        self.num_samples = 0
        self.num_clipped = 0
        self.num_not_finite = 0
        self.energy = 0.0

    def add(self, samples: np.ndarray) -> None:
        """Takes in float samples of any shape, full scale 1."""
        self.num_samples += samples.size
        finite = np.isfinite(samples)
        if not finite.all():
            self.num_not_finite += int(samples.size - finite.sum())
            samples = samples[finite]
        # The largest 16-bit value is 1 - 2^-15.
        self.num_clipped += int((np.abs(samples) >= 0.9999).sum())
        self.energy += float(np.square(samples, dtype=np.float64).sum())

    def problem(self, limits: Limits) -> str | None:
        """The reason why these samples cannot be used, or None."""
        if self.num_samples == 0:
            return "empty: no samples"
        if self.num_not_finite:
            return f"not finite: {self.num_not_finite} of {self.num_samples} samples are NaN or infinite"
        clipped = self.num_clipped / self.num_samples
        if clipped > limits.max_clipped:
            return f"clipped: {clipped:.1%} of the samples are at full scale, limit {limits.max_clipped:.1%}"
        level = 10 * math.log10(max(self.energy / self.num_samples, 1e-20))
        if level < limits.min_level:
            return f"silent: level {level:.0f} dB, limit {limits.min_level:.0f} dB"
        return None

"""Bootstrap intervals of rates, after Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004."""

import numpy as np

from toolkit.score.errors import ScoreError

BLOCK = 4_000_000  # draws held in memory at once


def resampled_sums(rows: np.ndarray, replications: int, seed: int) -> np.ndarray:
    """Sums of `rows` drawn with replacement.

    Rows with equal entries are interchangeable, so only how often each distinct row comes up is drawn: the
    same distribution, at a cost that grows with the number of distinct rows (of error counts there are few).

    Args:
        rows: (num_units, num_columns), one row for each unit that is drawn (an utterance, a recording).
        replications: the number of draws of num_units rows each.
        seed: of the random generator.

    Returns:
        (replications, num_columns).
    """
    if replications < 1:
        raise ScoreError(f"found {replications} bootstrap replications, expected at least 1")
    if seed < 0:
        raise ScoreError(f"found the seed {seed}, expected at least 0")
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(kinds))
    sums = [
        rng.multinomial(len(rows), counts / len(rows), size=min(block, replications - start)) @ kinds
        for start in range(0, replications, block)
    ]
    return np.concatenate(sums)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of `draws` (replications,); draws without a value do not count."""
    draws = draws[np.isfinite(draws)]
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, replications: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of sum(numerators) / sum(denominators), units (num_units,) drawn with replacement."""
    sums = resampled_sums(np.stack([numerators, denominators], axis=1), replications, seed)
    return interval(ratio(sums[:, 0], sums[:, 1]))


def or_none(value: float) -> float | None:
    """A number for JSON, which has no nan."""
    return None if np.isnan(value) else value


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Element-wise quotient, nan where the denominator is 0."""
    return np.divide(numerators, denominators, out=np.full(len(numerators), np.nan), where=denominators > 0)

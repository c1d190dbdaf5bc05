"""Equal error rate, detection cost and log-likelihood-ratio cost, as of speaker verification."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from toolkit.score.bootstrap import interval, or_none
from toolkit.score.errors import ScoreError

BINS = 4096  # more distinct scores than this are pooled, for the bootstrap alone


class Points(NamedTuple):
    """The distinct scores from high to low, and how many trials have them; each (num_points,)."""

    thresholds: np.ndarray
    targets: np.ndarray
    nontargets: np.ndarray


@dataclass(frozen=True)
class DetectionCost:
    """Detection cost at one target prior (NIST speaker recognition evaluation plans), normalised.

    DCF = (c_miss P_miss p + c_fa P_fa (1 - p)) / min(c_miss p, c_fa (1 - p)): 1 is what a system costs that
    always gives the same answer.

    Attributes:
        p_target: the prior p of a target trial.
        minimum: at the best threshold.
        threshold: that threshold: a trial is accepted when its score is at least this; inf when none is.
        misses, false_alarms: the numbers of errors there.
        actual: at the Bayes threshold log(c_fa (1 - p) / (c_miss p)), for scores that are log-likelihood
            ratios.
    """

    p_target: float
    minimum: float
    threshold: float
    misses: int
    false_alarms: int
    actual: float


@dataclass(frozen=True)
class EerResult:
    """Figures of a set of trials; every rate is a fraction.

    Attributes:
        eer: the equal error rate.
        threshold: the score at which misses and false alarms are equally frequent.
        eer_interval: 95 % bootstrap interval.
        unit: what the bootstrap draws: "trials" or "speakers".
        costs: the detection cost at each target prior.
        cllr: log-likelihood-ratio cost in bits (Brummer and du Preez 2006): 0 is perfect, 1 is a system that
            always says "no idea"; it judges the scores as natural log-likelihood ratios.
        cllr_min: the same after the best monotone calibration: what discrimination alone costs.
        targets, nontargets: the numbers of trials.
    """

    eer: float
    threshold: float
    eer_interval: tuple[float, float]
    unit: str
    costs: list[DetectionCost]
    c_miss: float
    c_fa: float
    cllr: float
    cllr_min: float
    targets: int
    nontargets: int
    replications: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The flat content of `--json`; docs/scoring.md explains the keys."""
        content: dict[str, Any] = {
            "metric": "eer",
            "eer": self.eer,
            "eer_low": or_none(self.eer_interval[0]),
            "eer_high": or_none(self.eer_interval[1]),
            "eer_threshold": self.threshold,
            "cllr": self.cllr,
            "cllr_min": self.cllr_min,
            "trials": self.targets + self.nontargets,
            "targets": self.targets,
            "nontargets": self.nontargets,
            "p_target": [cost.p_target for cost in self.costs],
            "c_miss": self.c_miss,
            "c_fa": self.c_fa,
            "bootstrap_unit": self.unit,
            "replications": self.replications,
            "seed": self.seed,
        }
        for cost in self.costs:
            name = f"min_dcf_p{cost.p_target:g}"
            content[name] = cost.minimum
            content[f"{name}_threshold"] = cost.threshold if np.isfinite(cost.threshold) else None
            content[f"{name}_misses"] = cost.misses
            content[f"{name}_false_alarms"] = cost.false_alarms
            content[f"act_dcf_p{cost.p_target:g}"] = cost.actual
        return content


def det_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the ROC and DET curve, tied scores in one step.

    Args:
        scores: (num_trials,), higher for targets.
        labels: (num_trials,), true for targets.

    Returns:
        (fpr, fnr), each (num_distinct_scores + 1,): the rates of false alarms and of misses as the threshold
        falls, from (0, 1) to (1, 0).
    """
    points = _points(*_checked(scores, labels))
    return _rates(points.targets, points.nontargets)


def score(
    scores: np.ndarray,
    labels: np.ndarray,
    p_target: Sequence[float] = (0.01, 0.05),
    c_miss: float = 1.0,
    c_fa: float = 1.0,
    speakers: tuple[np.ndarray, np.ndarray] | None = None,
    replications: int = 1000,
    seed: int = 0,
) -> EerResult:
    """Computes all figures of a set of trials.

    The EER is where the straight line between two neighbouring points of the ROC, tied scores in one step,
    crosses P_miss = P_fa.

    Args:
        scores: (num_trials,), higher for targets.
        labels: (num_trials,), true for targets.
        p_target: the priors at which the detection cost is computed.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        speakers: numbers of the speakers of both sides, each (num_trials,) int. With them the bootstrap draws
            speakers, without them trials, which is too narrow where many trials share a speaker.
        replications: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ScoreError: no target or no nontarget trial, a score that is not finite, or an impossible option.
    """
    scores, labels = _checked(scores, labels)
    if replications < 1 or seed < 0:
        raise ScoreError(f"found {replications} replications and seed {seed}, expected at least 1 and 0")
    points = _points(scores, labels)
    fpr, fnr = _rates(points.targets, points.nontargets)
    eer, threshold = _crossing(fpr, fnr, points.thresholds)
    if speakers is None:
        draws = _resampled_trials(points, replications, seed)
    else:
        draws = _resampled_speakers(scores, labels, speakers, replications, seed)
    return EerResult(
        eer=eer,
        threshold=threshold,
        eer_interval=interval(draws),
        unit="trials" if speakers is None else "speakers",
        costs=[_detection_cost(points, fpr, fnr, prior, c_miss, c_fa) for prior in p_target],
        c_miss=c_miss,
        c_fa=c_fa,
        cllr=_cllr(points.thresholds, points),
        cllr_min=_cllr(_calibrated(points), points),
        targets=int(labels.sum()),
        nontargets=int((~labels).sum()),
        replications=replications,
        seed=seed,
    )


def details(result: EerResult, pairs: Sequence[str], scores: np.ndarray, labels: np.ndarray) -> Iterator[str]:
    """Yields a line a trial: enroll, test, label, score, and the error (or -) at the EER threshold."""
    yield "enroll test label score error"
    for pair, value, target in zip(pairs, scores, labels, strict=True):
        accepted = value >= result.threshold
        error = "-" if accepted == target else "false-alarm" if accepted else "miss"
        yield f"{pair} {'target' if target else 'nontarget'} {float(value)!r} {error}"


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ScoreError(f"found scores {scores.shape} and labels {labels.shape}, expected two equal lengths")
    if not np.all(np.isfinite(scores)):
        raise ScoreError("found a score that is not a finite number")
    if labels.all() or not labels.any():
        kind = "target" if not labels.any() else "nontarget"
        raise ScoreError(f"found no {kind} trial among {len(labels)}, expected at least one")
    return scores, labels


def _points(scores: np.ndarray, labels: np.ndarray) -> Points:
    thresholds, which = np.unique(-scores, return_inverse=True)
    counts = [np.bincount(which[kind], minlength=len(thresholds)) for kind in (labels, ~labels)]
    return Points(-thresholds, *counts)


def _rates(targets: np.ndarray, nontargets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, fnr) after each of the steps (..., num_points), with the start (0, 1) put in front."""
    start = [(0, 0)] * (targets.ndim - 1) + [(1, 0)]
    accepted = np.pad(np.cumsum(targets, axis=-1), start)
    alarms = np.pad(np.cumsum(nontargets, axis=-1), start)
    total = accepted[..., -1:]
    return alarms / alarms[..., -1:], (total - accepted) / total


def _crossing(fpr: np.ndarray, fnr: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """The EER and its threshold."""
    after = int(np.argmax(fpr >= fnr))
    share, rate = _interpolated(fpr, fnr, np.array(after))
    # Before the first point the threshold is infinite: nothing to interpolate with.
    above = thresholds[max(after - 2, 0)]
    return float(rate), float(above + share * (thresholds[after - 1] - above))


def _interpolated(fpr: np.ndarray, fnr: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where fpr - fnr crosses 0 on the way to point `after`: (share of the way, rate)."""
    ends = np.stack([after - 1, after], axis=-1)
    alarms, misses = np.take_along_axis(fpr, ends, -1), np.take_along_axis(fnr, ends, -1)
    gap = alarms - misses
    share = gap[..., 0] / (gap[..., 0] - gap[..., 1])
    return share, alarms[..., 0] + share * (alarms[..., 1] - alarms[..., 0])


def _detection_cost(
    points: Points, fpr: np.ndarray, fnr: np.ndarray, p_target: float, c_miss: float, c_fa: float
) -> DetectionCost:
    if not 0 < p_target < 1:
        raise ScoreError(f"found the target prior {p_target:g}, expected a number between 0 and 1")
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise ScoreError(f"found the costs c_miss {c_miss:g} and c_fa {c_fa:g}, expected positive numbers")
    miss_weight, alarm_weight = c_miss * p_target, c_fa * (1 - p_target)
    cost = (miss_weight * fnr + alarm_weight * fpr) / min(miss_weight, alarm_weight)
    best = int(np.argmin(cost))
    accepted = int(np.count_nonzero(points.thresholds >= np.log(alarm_weight / miss_weight)))
    return DetectionCost(
        p_target=p_target,
        minimum=float(cost[best]),
        threshold=float(points.thresholds[best - 1]) if best else float("inf"),
        misses=int(points.targets[best:].sum()),
        false_alarms=int(points.nontargets[:best].sum()),
        actual=float(cost[accepted]),
    )


def _cllr(llr: np.ndarray, points: Points) -> float:
    """Cllr in bits of the log-likelihood ratios `llr` (num_points,) of the points."""
    # A point without trials of a kind adds nothing, whatever its ratio (0 times inf would be nan).
    has_targets, has_nontargets = points.targets > 0, points.nontargets > 0
    misses = points.targets[has_targets] @ np.logaddexp(0, -llr[has_targets]) / points.targets.sum()
    alarms = (
        points.nontargets[has_nontargets] @ np.logaddexp(0, llr[has_nontargets]) / points.nontargets.sum()
    )
    return float((misses + alarms) / (2 * np.log(2)))


def _calibrated(points: Points) -> np.ndarray:
    """The log-likelihood ratio of each point after the best monotone calibration (isotonic regression)."""
    trials = points.targets + points.nontargets
    posterior = isotonic_regression(points.targets / trials, weights=trials, increasing=False).x
    # What is left of the rounding of means would else turn a posterior of 1 into slightly more.
    posterior = np.clip(posterior, 0, 1)
    with np.errstate(divide="ignore"):
        odds = np.log(posterior) - np.log1p(-posterior)
    return odds - np.log(points.targets.sum() / points.nontargets.sum())


def _resampled_trials(points: Points, replications: int, seed: int) -> np.ndarray:
    """EERs (replications,) of trials drawn with replacement, as many of each kind as there are."""
    rng = np.random.default_rng(seed)
    # Neighbouring scores are pooled where there are too many to draw each; the interval does not feel it.
    size = -(-len(points.thresholds) // BINS)
    starts = np.arange(0, len(points.thresholds), size)
    kinds = [np.add.reduceat(counts, starts) for counts in (points.targets, points.nontargets)]
    return _eers(*(rng.multinomial(counts.sum(), counts / counts.sum(), replications) for counts in kinds))


def _resampled_speakers(
    scores: np.ndarray,
    labels: np.ndarray,
    speakers: tuple[np.ndarray, np.ndarray],
    replications: int,
    seed: int,
) -> np.ndarray:
    """EERs of speakers drawn with replacement.

    A trial between two speakers counts as often as both were drawn (the product), one within a speaker as
    often as that speaker. Draws that have lost all trials of a kind are left out.
    """
    enroll, test = speakers
    num_speakers = int(max(enroll.max(), test.max())) + 1
    if num_speakers < 2:
        raise ScoreError("found one speaker in all trials, expected at least two to draw from")
    rng = np.random.default_rng(seed)
    thresholds, which = np.unique(-scores, return_inverse=True)
    draws = []
    for _ in range(replications):
        times = rng.multinomial(num_speakers, np.full(num_speakers, 1 / num_speakers))
        weight = np.where(enroll == test, times[enroll], times[enroll] * times[test])
        kinds = [np.bincount(which[kind], weight[kind], len(thresholds)) for kind in (labels, ~labels)]
        if all(counts.any() for counts in kinds):
            draws.append(_eers(*(counts[None] for counts in kinds))[0])
    return np.array(draws)


def _eers(targets: np.ndarray, nontargets: np.ndarray) -> np.ndarray:
    """EERs (num_sets,) of the counts (num_sets, num_points) at falling thresholds."""
    fpr, fnr = _rates(targets, nontargets)
    return _interpolated(fpr, fnr, np.argmax(fpr >= fnr, axis=-1))[1]

"""EER, detection cost and Cllr against scikit-learn and brute force."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_curve

from toolkit.score import ScoreError, eer


def random_trials(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels: few or many trials, ties (also all tied), overlap from none to inverted."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(2, 400))
    labels = rng.random(number) < rng.uniform(0.05, 0.95)
    labels[:2] = True, False
    scores = rng.normal(labels * rng.uniform(-1, 5), 1.5)
    decimals = int(rng.integers(-1, 4))
    return np.round(scores, decimals), labels


def balanced_log_loss(llr: np.ndarray, labels: np.ndarray) -> float:
    """Cllr as scikit-learn has it: the log loss in bits with both kinds of trials weighted alike."""
    weights = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
    return log_loss(labels, expit(llr), sample_weight=weights) / np.log(2)


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_eer_equals_interpolated_roc_of_scikit_learn(start: int) -> None:
    for seed in range(start, start + 50):
        scores, labels = random_trials(seed)
        fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = brentq(lambda x, fpr=fpr, tpr=tpr: 1 - x - np.interp(x, fpr, tpr), 0, 1, xtol=1e-12)
        result = eer.score(scores, labels, replications=1)
        assert result.eer == pytest.approx(expected, abs=1e-6), seed
        ours = eer.det_curve(scores, labels)
        np.testing.assert_allclose(ours, (fpr, 1 - tpr), atol=1e-12)


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_detection_cost_equals_brute_force(start: int) -> None:
    for seed in range(start, start + 50):
        scores, labels = random_trials(seed)
        rng = np.random.default_rng(seed)
        p, c_miss, c_fa = rng.uniform(0.001, 0.999), rng.uniform(0.1, 10), rng.uniform(0.1, 10)

        def cost(threshold: float, scores=scores, labels=labels, p=p, c_miss=c_miss, c_fa=c_fa) -> float:
            miss, alarm = np.mean(scores[labels] < threshold), np.mean(scores[~labels] >= threshold)
            return (c_miss * p * miss + c_fa * (1 - p) * alarm) / min(c_miss * p, c_fa * (1 - p))

        result = eer.score(scores, labels, [p], c_miss, c_fa, replications=1).costs[0]
        assert result.minimum == pytest.approx(min(map(cost, [*scores, np.inf])), abs=1e-6)
        assert result.minimum == pytest.approx(cost(result.threshold), abs=1e-12)
        assert result.actual == pytest.approx(cost(np.log(c_fa * (1 - p) / (c_miss * p))), abs=1e-12)
        assert result.misses == np.sum(scores[labels] < result.threshold)
        assert result.false_alarms == np.sum(scores[~labels] >= result.threshold)


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_cllr_equals_log_loss_of_scikit_learn(start: int) -> None:
    for seed in range(start, start + 50):
        scores, labels = random_trials(seed)
        result = eer.score(scores, labels, replications=1)
        assert result.cllr == pytest.approx(balanced_log_loss(scores, labels), abs=1e-6)
        posterior = IsotonicRegression().fit_transform(scores, labels)
        with np.errstate(divide="ignore"):
            llr = np.log(posterior / (1 - posterior)) - np.log(labels.mean() / (1 - labels.mean()))
        assert result.cllr_min == pytest.approx(balanced_log_loss(llr, labels), abs=1e-6)


def test_threshold_is_where_the_rates_meet() -> None:
    scores = np.array([4.0, 3.0, 2.0, 1.0, 0.0, -1.0])
    labels = np.array([True, True, False, True, False, False])
    result = eer.score(scores, labels)
    assert result.eer == pytest.approx(1 / 3) and result.threshold == pytest.approx(2.0)
    separate = eer.score(np.array([2.0, 1.0, 0.0]), np.array([True, False, False]), p_target=[0.5])
    assert separate.eer == separate.cllr_min == separate.costs[0].minimum == 0
    tied = eer.score(np.zeros(4), np.array([True, False, True, False]))
    assert tied.eer == 0.5 and tied.cllr_min == pytest.approx(1) and tied.costs[0].minimum == 1


def test_interval_agrees_with_plain_resampling() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) < 200
    scores = np.round(rng.normal(labels * 2.0), 1)
    result = eer.score(scores, labels, replications=2000)
    draws = []
    for _ in range(500):
        kinds = [rng.choice(scores[kind], kind.sum()) for kind in (labels, ~labels)]
        draws.append(eer.score(np.concatenate(kinds), labels, replications=1).eer)
    assert result.eer_interval == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)
    assert result.eer_interval == eer.score(scores, labels, replications=2000).eer_interval


def test_pooling_neighbouring_scores_leaves_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3000) < 1000
    scores = rng.normal(labels * 2.0)
    exact = eer.score(scores, labels).eer_interval
    monkeypatch.setattr(eer, "BINS", 300)
    assert eer.score(scores, labels).eer_interval == pytest.approx(exact, abs=0.003)


def test_drawing_speakers_gives_a_wider_interval_than_drawing_trials() -> None:
    rng = np.random.default_rng(0)
    enroll, test = (rng.integers(0, 12, 5000) for _ in range(2))
    test = np.where(rng.random(5000) < 0.3, enroll, test)
    labels = enroll == test
    scores = rng.normal(labels * 2.0) + rng.normal(size=12)[enroll]
    trials = eer.score(scores, labels)
    speakers = eer.score(scores, labels, speakers=(enroll, test))
    assert (trials.unit, speakers.unit) == ("trials", "speakers")
    assert speakers.eer == trials.eer
    widths = [result.eer_interval[1] - result.eer_interval[0] for result in (trials, speakers)]
    assert widths[1] > 2 * widths[0]
    assert speakers.eer_interval[0] < speakers.eer < speakers.eer_interval[1]


@pytest.mark.parametrize(
    ("scores", "labels", "options", "message"),
    [
        ([1.0, 2.0], [True, True], {}, "no nontarget trial"),
        ([1.0, 2.0], [False, False], {}, "no target trial"),
        ([1.0, np.nan], [True, False], {}, "not a finite number"),
        ([1.0], [True, False], {}, "two equal lengths"),
        ([1.0, 2.0], [True, False], {"p_target": [1.0]}, "target prior 1"),
        ([1.0, 2.0], [True, False], {"c_fa": 0.0}, "c_fa 0"),
        ([1.0, 2.0], [True, False], {"replications": 0}, "0 replications"),
        ([1.0, 2.0], [True, False], {"speakers": (np.zeros(2, int), np.zeros(2, int))}, "one speaker"),
    ],
)
def test_bad_trials_are_refused(scores: list, labels: list, options: dict, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        eer.score(np.array(scores), np.array(labels), **options)

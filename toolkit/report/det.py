"""Verification pictures: the DET curve on probit axes and histograms of scores."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import ndtr, ndtri

from toolkit.report.style import INK, MUTED, PANEL, SERIES, series, styled
from toolkit.score import eer
from toolkit.score.eer import EerResult

# Rates that have a label; closer ones would touch.
_TICKS = [0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95]


class System(NamedTuple):
    """Scored trials of one system.

    Attributes:
        scores: (N,) larger means more alike.
        labels: (N,) bool, true for targets.
        fpr, fnr: rates of false alarms and misses over all thresholds, from `eer.det_curve`.
        result: from `eer.score`.
    """

    scores: np.ndarray
    labels: np.ndarray
    fpr: np.ndarray
    fnr: np.ndarray
    result: EerResult

    @property
    def min_dcf_point(self) -> tuple[float, float]:
        """(fpr, fnr) where the detection cost at the first prior is least."""
        cost = self.result.costs[0]
        return cost.false_alarms / self.result.nontargets, cost.misses / self.result.targets


def score_system(scores: np.ndarray, labels: np.ndarray, p_target: float) -> System:
    """Scores one system's trials for the pictures (the bootstrap, which they do not show, is cut short)."""
    result = eer.score(scores, labels, [p_target], replications=1)
    return System(scores, labels, *eer.det_curve(scores, labels), result)


@styled()
def det_plot(systems: Mapping[str, System]) -> Figure:
    """Misses over false alarms on probit axes (Martin et al., 1997), EER and minDCF points marked.

    On these axes normally distributed scores give a straight line; lower left is better.
    """
    figure = Figure(figsize=(PANEL, PANEL))
    axes = figure.add_subplot()
    low, high = _limits(systems)
    axes.plot(ndtri([low, high]), ndtri([low, high]), color=MUTED, linewidth=0.8, linestyle="--")
    for index, (name, curve) in enumerate(systems.items()):
        cost = curve.result.costs[0]
        label = f"{name}: EER {100 * curve.result.eer:.2f} %, minDCF({cost.p_target:g}) {cost.minimum:.3f}"
        fpr, fnr = (ndtri(np.clip(rate, 1e-6, 1 - 1e-6)) for rate in (curve.fpr, curve.fnr))
        axes.plot(fpr, fnr, color=series(index), label=label)
        equal = ndtri(np.clip(curve.result.eer, low, high))
        axes.plot(equal, equal, marker="o", color=series(index))
        at = ndtri(np.clip(curve.min_dcf_point, low, high))
        axes.plot(*at, marker="D", color=series(index), clip_on=False)
    for marker, meaning in (("o", "EER"), ("D", "minDCF")):
        axes.plot([], [], marker=marker, color=INK, linewidth=0, label=meaning)
    for axis, label in ((axes.xaxis, "false alarms (%)"), (axes.yaxis, "misses (%)")):
        axis.set_major_locator(FixedLocator([float(ndtri(tick)) for tick in _TICKS if low <= tick <= high]))
        axis.set_major_formatter(FuncFormatter(lambda number, _: f"{100 * float(ndtr(number)):.3g}"))
        axis.set_minor_locator(NullLocator())
        axis.set_label_text(label)
    axes.set_xlim(*ndtri([low, high]))
    axes.set_ylim(*ndtri([low, high]))
    axes.set_aspect("equal")
    figure.legend(loc="outside upper left")
    return figure


@styled()
def score_histogram(system: System, title: str = "") -> Figure:
    """Densities of target and non-target scores, and the threshold of equal error."""
    figure = Figure(figsize=(PANEL, 2.7))
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(system.scores, bins=min(50, max(10, int(np.sqrt(len(system.scores))))))
    for wanted, name, colour in ((False, "non-target", SERIES[1]), (True, "target", SERIES[0])):
        chosen = system.scores[system.labels == wanted]
        density, _ = np.histogram(chosen, bins=edges, density=True)
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(density, edges, color=colour, linewidth=1.6, label=f"{name} ({len(chosen):,} trials)")
    threshold = system.result.threshold
    axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--", label="threshold of equal error")
    axes.set_xlabel("score")
    axes.set_ylabel("density")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _limits(systems: Mapping[str, System]) -> tuple[float, float]:
    """The range of both axes: from the smallest rate that the trials can show to above all points."""
    rates = np.concatenate([rate for system in systems.values() for rate in (system.fpr, system.fnr)])
    marked = [max(3 * system.result.eer, 1.1 * max(system.min_dcf_point)) for system in systems.values()]
    smallest = rates[rates > 0].min() / 1.5
    return float(np.clip(smallest, 0.00009, 0.02)), float(np.clip(max(marked), 0.4, 0.97))

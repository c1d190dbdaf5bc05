"""Pictures of a few numbers: error rates with intervals, label quality, stage times, confusion of counts."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from toolkit.report.style import INK, MUTED, PANEL, PAPER, SERIES, series, styled


@styled()
def intervals(rows: Sequence[tuple[str, float, float, float]], label: str) -> Figure:
    """One bar a system with its interval.

    Args:
        rows: (name, value, low, high) a system, from the top down; low and high are nan without an interval.
        label: of the value axis, with its unit.
    """
    figure = Figure(figsize=(PANEL, 0.9 + 0.42 * len(rows)))
    axes = figure.add_subplot()
    edge = np.nanmax([bound for _, *numbers in rows for bound in numbers])
    for index, (_, value, low, high) in enumerate(rows):
        axes.barh(index, value, height=0.62, color=series(index))
        if np.isfinite(low) and np.isfinite(high):
            spread = [[value - low], [high - value]]
            axes.errorbar(value, index, xerr=spread, color=INK, capsize=3.5, linewidth=1.2)
        axes.text(np.nanmax([value, high]) + 0.02 * edge, index, f"{value:.2f}", va="center", weight="bold")
    axes.set_xlim(0, edge * 1.17 or 1)
    _names_down(axes, [name for name, *_ in rows])
    axes.set_xlabel(label)
    return figure


@styled()
def groups(values: Mapping[str, Mapping[str, float]], label: str) -> Figure:
    """Bars side by side: one group a measure, one colour a system.

    Args:
        values: system -> measure -> value; a system may lack a measure.
        label: of the value axis, with its unit.
    """
    measures = list(dict.fromkeys(measure for row in values.values() for measure in row))
    figure = Figure(figsize=(PANEL, 2.9))
    axes = figure.add_subplot()
    width = 0.8 / len(values)
    for index, (name, row) in enumerate(values.items()):
        places = [place for place, measure in enumerate(measures) if measure in row]
        at = [place + (index - (len(values) - 1) / 2) * width for place in places]
        heights = [row[measures[place]] for place in places]
        bars = axes.bar(at, heights, width=width * 0.92, color=series(index), label=name)
        axes.bar_label(bars, fmt="%.3f", fontsize=7.5, padding=2, color=INK)
    axes.set_xticks(range(len(measures)), measures)
    axes.tick_params(axis="x", labelcolor=INK)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.set_ylabel(label)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled()
def times(seconds: Mapping[str, float]) -> Figure:
    """How long each stage took.

    Args:
        seconds: stage -> seconds, in the order they ran.
    """
    figure = Figure(figsize=(PANEL, 0.8 + 0.27 * len(seconds)))
    axes = figure.add_subplot()
    minutes = [value / 60 for value in seconds.values()]
    axes.barh(range(len(minutes)), minutes, height=0.66, color=SERIES[0])
    for index, (value, stage) in enumerate(zip(minutes, seconds, strict=True)):
        axes.text(value + 0.015 * max(minutes), index, duration(seconds[stage]), va="center", fontsize=8)
    axes.set_xlim(0, max(minutes) * 1.17 or 1)
    _names_down(axes, list(seconds))
    axes.set_xlabel("time (minutes)")
    return figure


@styled()
def confusion(counts: np.ndarray, names: Sequence[str], actual: str, found: str, title: str = "") -> Figure:
    """A confusion matrix as a table of shaded cells; shading is the share of the row.

    Args:
        counts: (N, N), rows are what is true, columns what was found.
        names: of the N classes.
        actual: label of the rows.
        found: label of the columns.
        title: above the picture.
    """
    figure = Figure(figsize=(PANEL * 0.8, PANEL * 0.62 + 0.3))
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    whole = np.issubdtype(counts.dtype, np.integer)
    for row, column in zip(*np.nonzero(counts), strict=True):
        count, shade = counts[row, column], float(share[row, column])
        corner = column - 0.48, row - 0.48
        axes.add_patch(Rectangle(corner, 0.96, 0.96, color=SERIES[0], alpha=shade, linewidth=0))
        colour, weight = PAPER if shade > 0.55 else INK, "bold" if row == column else "normal"
        text = f"{count}" if whole else f"{count:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, weight=weight)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(found)
    axes.set_ylabel(actual)
    axes.set_title(title)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def duration(seconds: float) -> str:
    """Seconds for people: 8.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _names_down(axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_color(MUTED)
    axes.grid(axis="y", visible=False)

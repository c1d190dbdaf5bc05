"""Training curves: how loss, other statistics and the learning rate went over steps or time."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from toolkit.report.reading import is_number
from toolkit.report.style import PANEL, series, styled

# What a metrics file holds besides statistics of the task, with the axis label where it may be drawn.
LABELS = {
    "step": "step (updates)",
    "epoch": "epoch",
    "elapsed": "time (minutes)",
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "audio_per_second": "audio seconds per second",
}
MAX_POINTS = 400


@styled()
def curves(
    runs: Mapping[str, Sequence[Mapping]], value: str, label: str = "", x: str = "step", log_x: bool = False
) -> Figure:
    """Draws one value of several runs: training as a thin line, validation as a strong one with dots.

    Args:
        runs: name -> rows of metrics.jsonl ({"step": 100, "split": "train", "loss": 1.2, ...}).
        value: the key to draw; rows without it, or where it is not finite, are left out.
        label: of the y axis; the key itself or its common name by default.
        x: "step", "epoch" or "elapsed" (shown in minutes).
        log_x: a logarithmic x axis.
    """
    figure = Figure(figsize=(PANEL, 2.9))
    axes = figure.add_subplot()
    for index, (name, rows) in enumerate(runs.items()):
        train, valid = points(rows, value, "train", x), points(rows, value, "valid", x)
        colour = series(index)
        if len(train):
            width, strength = (1.1, 0.5) if len(valid) else (1.6, 1)
            axes.plot(*_thinned(train).T, color=colour, linewidth=width, alpha=strength)
        if len(valid):
            axes.plot(*valid.T, color=colour, marker="o", markersize=3.6, markeredgewidth=0)
        if len(train) or len(valid):
            axes.plot([], [], color=colour, linewidth=2.2, label=name)
    axes.set_xlabel(LABELS[x])
    axes.set_ylabel(fill(label or LABELS.get(value, value.replace("_", " ")), 32))
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.xaxis.set_minor_formatter("")
    if value == "lr":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.3g}"))
    if len(runs) > 1:
        figure.legend(loc="outside upper left", ncols=2 if len(runs) > 2 else len(runs))
    return figure


def points(rows: Sequence[Mapping], value: str, split: str, x: str = "step") -> np.ndarray:
    """The finite points of one value as an array (N, 2) of x and y."""
    scale = 1 / 60 if x == "elapsed" else 1
    pairs = [
        (row[x] * scale, row[value])
        for row in rows
        if row.get("split") == split and is_number(row.get(value)) and is_number(row.get(x))
    ]
    found = np.array(pairs, dtype=float).reshape(-1, 2)
    return found[np.isfinite(found).all(axis=1)]


def values_of(runs: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """The values worth a picture: loss, statistics of the task in order of appearance, learning rate."""
    seen = dict.fromkeys(key for rows in runs.values() for row in rows for key in row if is_number(row[key]))
    stats = [key for key in seen if key not in LABELS]
    return [key for key in ("loss", *stats, "lr") if key in seen]


def _thinned(line: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS points: the mean over equal runs of points, for a small page and a readable line."""
    if len(line) <= MAX_POINTS:
        return line
    return np.array([part.mean(axis=0) for part in np.array_split(line, MAX_POINTS)])

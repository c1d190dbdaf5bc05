"""What the recogniser heard and when: a log-mel spectrogram with the CTC alignment below it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from toolkit.report.style import INK, MUTED, WIDE, series, styled


class Token(NamedTuple):
    """One aligned token or word; times in seconds."""

    start: float
    end: float
    text: str


class Posteriors(NamedTuple):
    """Probabilities (T, V) of the tokens, one row every `frame_shift` seconds; token 0 is the blank."""

    values: np.ndarray
    frame_shift: float


@styled()
def alignment(
    features: np.ndarray,
    frame_shift: float,
    tokens: Sequence[Token],
    posteriors: Posteriors | None = None,
    title: str = "",
) -> Figure:
    """Draws log-mel energies over time and, on the same time axis, the tokens where the alignment puts them.

    Args:
        features: (T, F) log-mel energies, lowest frequency first.
        frame_shift: seconds between two frames of `features`.
        tokens: the alignment, in order of time.
        posteriors: drawn below the tokens where given: blank in grey, the best other token in colour.
        title: above the picture.
    """
    heights = [2.6, 0.75] + ([1.3] if posteriors else [])
    figure = Figure(figsize=(WIDE, 0.55 + sum(heights)))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    seconds = len(features) * frame_shift
    low, high = np.percentile(features, [2, 99.5])
    panels[0].imshow(
        features.T, origin="lower", aspect="auto", interpolation="none", cmap="magma", vmin=low, vmax=high,
        extent=(0, seconds, 0, features.shape[1]),
    )  # fmt: skip
    panels[0].set_ylabel("mel band")
    panels[0].set_title(title)
    panels[0].grid(False)
    for token in tokens:
        panels[0].axvline(token.start, color="white", linewidth=0.6, alpha=0.45)
    _draw_tokens(panels[1], tokens, seconds)
    if posteriors:
        _draw_posteriors(panels[2], posteriors)
    panels[-1].set_xlabel("time (seconds)")
    panels[-1].set_xlim(0, seconds)
    return figure


def _draw_tokens(axes, tokens: Sequence[Token], seconds: float) -> None:
    """Boxes with text; where texts are wider than boxes they stand in two rows in turn."""
    for index, token in enumerate(tokens):
        axes.axvspan(token.start, token.end, color=series(index % 2 * 2), alpha=0.28, linewidth=0)
        axes.axvline(token.start, color=MUTED, linewidth=0.6)
    width = 0.0085 * seconds
    crowded = any(token.end - token.start < width * len(token.text) for token in tokens)
    for index, token in enumerate(tokens):
        row = 0.72 - 0.44 * (index % 2) if crowded else 0.5
        middle = (token.start + token.end) / 2
        axes.text(middle, row, token.text, ha="center", va="center", fontsize=8, color=INK)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(NullLocator())
    axes.set_ylabel("tokens")
    axes.grid(False)


def _draw_posteriors(axes, posteriors: Posteriors) -> None:
    values = posteriors.values
    times = (np.arange(len(values)) + 0.5) * posteriors.frame_shift
    axes.fill_between(times, values[:, 0], color=MUTED, alpha=0.25, linewidth=0, label="blank")
    axes.plot(times, values[:, 1:].max(axis=1), color=series(0), linewidth=1.2, label="best token")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("probability")
    axes.legend(loc="upper right", ncols=2)

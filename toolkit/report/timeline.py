"""Who spoke when: reference and hypothesis of a recording over time, with the errors below."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from toolkit.report.style import COLOURS, INK, MUTED, WIDE, series, styled
from toolkit.score.formats import Turn
from toolkit.score.recording import Timeline


class Region(NamedTuple):
    """A stretch of time in which the hypothesis is wrong in one way: "miss", "false alarm" or "confusion"."""

    start: float
    end: float
    kind: str


# kind of error -> its colour, and the count of it in a piece
KINDS = {
    "miss": ("miss", "missed"),
    "false alarm": ("false-alarm", "false_alarms"),
    "confusion": ("confusion", "confused"),
}


def error_regions(pieces: Timeline) -> list[Region]:
    """Where the hypothesis is scored and wrong; neighbouring pieces of a kind are one region."""
    regions = []
    for kind, (_, count) in KINDS.items():
        wrong = pieces.scored & (getattr(pieces, count) > 0)
        changes = np.flatnonzero(np.diff(wrong, prepend=False, append=False)).reshape(-1, 2)
        regions += [Region(pieces.edges[start], pieces.edges[end], kind) for start, end in changes]
    return sorted(regions)


@styled()
def timeline(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    pieces: Timeline,
    start: float = 0.0,
    seconds: float = math.inf,
    title: str = "",
) -> Figure:
    """Draws one row a reference speaker: the reference above, the hypothesis mapped to this speaker below it.

    Hypothesis speakers mapped to nobody get grey rows of their own. The last row and the shading show errors.

    Args:
        reference: turns of the reference.
        hypothesis: turns of the hypothesis.
        pieces: what `der.score` found: who is who, and the errors.
        start: first second shown.
        seconds: how much is shown at most.
        title: above the picture.
    """
    last = max((turn.end for turn in (*reference, *hypothesis)), default=start)
    end = min(start + seconds, last) if last > start else start + 1
    shown = {turn.speaker for turn in reference if turn.end > start}
    # Hypothesis speakers under the names of the reference; the others keep their own.
    names = {turn.speaker: pieces.mapping.get(turn.speaker) for turn in hypothesis if turn.end > start}
    speakers = list(dict.fromkeys(turn.speaker for turn in sorted(reference) if turn.speaker in shown))
    strangers = sorted(name for name, mapped in names.items() if mapped not in shown)
    rows = len(speakers) + len(strangers) + 1
    figure = Figure(figsize=(WIDE, 0.95 + 0.42 * rows))
    axes = figure.add_subplot()
    for row, speaker in enumerate(speakers):
        heard = {name for name, mapped in names.items() if mapped == speaker}
        _bars(axes, _turns_of(reference, {speaker}), row - 0.38, 0.36, series(row))
        _bars(axes, _turns_of(hypothesis, heard), row + 0.02, 0.36, series(row), alpha=0.5)
    for row, speaker in enumerate(strangers, len(speakers)):
        _bars(axes, _turns_of(hypothesis, {speaker}), row + 0.02, 0.36, MUTED, alpha=0.5)
    for region in error_regions(pieces):
        colour = COLOURS[KINDS[region.kind][0]][0]
        axes.axvspan(region.start, region.end, color=colour, alpha=0.13, linewidth=0, zorder=0)
        _bars(axes, [Turn(*region)], rows - 1.38 + 0.27 * list(KINDS).index(region.kind), 0.24, colour)
    found = {mapped: name for name, mapped in pieces.mapping.items()}
    labels = [f"{speaker} → {found.get(speaker, 'not found')}" for speaker in speakers]
    labels += [f"not in the reference: {name}" for name in strangers]
    axes.set_yticks(range(rows), [*labels, "errors"])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(rows - 0.45, -0.55)
    axes.set_xlim(start, end)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("time (seconds)")
    axes.set_title(title)
    keys = [Patch(color=MUTED, label="reference (upper bar)")]
    keys += [Patch(color=MUTED, alpha=0.5, label="hypothesis (lower)")]
    keys += [Patch(color=COLOURS[colour][0], label=kind) for kind, (colour, _) in KINDS.items()]
    figure.legend(handles=keys, loc="outside lower left", ncols=5, handlelength=1.1, columnspacing=1.4)
    return figure


def _turns_of(turns: Sequence[Turn], speakers: set[str]) -> list[Turn]:
    return [turn for turn in turns if turn.speaker in speakers]


def _bars(axes, turns: Sequence[Turn], top: float, height: float, colour: str, alpha: float = 1) -> None:
    """Draws turns of one speaker; those that overlap become one bar, so that no part looks darker."""
    spans: list[list[float]] = []
    for start, end, _ in sorted(turns):
        if spans and start <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    widths = [(start, end - start) for start, end in spans]
    axes.broken_barh(widths, (top, height), facecolor=colour, alpha=alpha, linewidth=0)

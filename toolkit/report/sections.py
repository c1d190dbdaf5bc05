"""Sections: from a part of a description to HTML. Reads the files, draws, and says what has not been run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median_low

import numpy as np

from toolkit.errors import UserError
from toolkit.report import bars, description, page, recognition
from toolkit.report.canvas import Canvas
from toolkit.report.curves import curves, points, values_of
from toolkit.report.det import det_plot, score_histogram, score_system
from toolkit.report.page import Block
from toolkit.report.reading import read_log, read_times
from toolkit.report.results import read_metrics
from toolkit.report.timeline import timeline
from toolkit.score import der, trials
from toolkit.score.der import DerResult
from toolkit.score.formats import read_rttm, read_uem


def render(section: description.Section, places: description.Places, number: int) -> tuple[Block, list[str]]:
    """Draws one section.

    Returns:
        The block for the page, and the paths of files that are not there.

    Raises:
        UserError, ScoreError: a malformed file.
    """
    canvas = Canvas(places, f"figure-{number}")
    html = RENDERERS[section.kind](section, canvas)
    missing = list(dict.fromkeys(canvas.missing))
    if missing:
        html.append(page.not_run(missing))
    return Block(section.title or section.heading, html, section.text), missing


def _curves(section: description.Curves, canvas: Canvas) -> list[str]:
    files = {name: _log_file(run) for name, run in section.runs.items()}
    logs = {name: read_log(path) for name, path in canvas.find_each(files).items()}
    runs = {name: rows for name, rows in logs.items() if rows}
    if not runs:
        return [page.paragraph("Nothing has been logged yet.")] if logs else []
    values = section.values or dict.fromkeys(values_of(runs), "")
    pictures = []
    for value, axis in values.items():
        having = {name: rows for name, rows in runs.items() if any(value in row for row in rows)}
        if not having:
            found = f"{', '.join(files.values())}: found no {value!r}"
            raise UserError(f"{found}, expected one of {', '.join(values_of(runs))}")
        figure = curves(runs, value, axis, section.x, section.log_x)
        pictures.append(canvas.picture(figure, f"{axis or value} over {section.x} of {', '.join(having)}"))
    rows = [_last_values(name, rows) for name, rows in runs.items()]
    columns = ("run", "steps", "training loss at the end", "validation loss at the end", "lowest", "at step")
    note = "Thin lines: training; strong lines with dots: validation."
    return [
        page.panels(pictures),
        page.paragraph(note),
        page.details("In figures", page.table(columns, rows, "Loss", range(1, 6))),
    ]


def _log_file(run: str) -> str:
    return run if run.endswith(".jsonl") else f"{run}/metrics.jsonl"


def _last_values(name: str, rows: Sequence[dict]) -> list[str]:
    train, valid = points(rows, "loss", "train"), points(rows, "loss", "valid")
    best = valid[np.argmin(valid[:, 1])] if len(valid) else None
    return [
        name,
        f"{max((row['step'] for row in rows), default=0):,}",
        f"{train[-1, 1]:.4f}" if len(train) else "-",
        f"{valid[-1, 1]:.4f}" if len(valid) else "-",
        f"{best[1]:.4f}" if best is not None else "-",
        f"{best[0]:,.0f}" if best is not None else "-",
    ]


def _det(section: description.Det, canvas: Canvas) -> list[str]:
    systems = {}
    for name, scores in section.scores.items():
        if found := canvas.find(scores, *filter(None, [section.trials.get(name)])):
            systems[name] = score_system(*_labelled_scores(*found), section.p_target)
    if not systems:
        return []
    rates = "; ".join(f"{name}: EER {100 * system.result.eer:.2f} %" for name, system in systems.items())
    caption = "Lower left is better. Circles: equal error rate; diamonds: least detection cost (minDCF)."
    pictures = [canvas.picture(det_plot(systems), f"DET curves. {rates}", caption)]
    for name, system in systems.items():
        label = f"Histogram of target and non-target scores, {name}"
        pictures.append(canvas.picture(score_histogram(system, name), label))
    return [page.panels(pictures, tall_first=True)]


def _labelled_scores(scores_path: Path, trials_path: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    scores = trials.read_scores(scores_path)
    if trials_path:
        listed = trials.read_trials(trials_path)
        return trials.join(listed, scores, extra="ignore"), listed.labels
    if scores.labels is None:
        expected = "a fourth column with them, or a trial file under `trials`"
        raise UserError(f"{scores_path}: found no labels, expected {expected}")
    return scores.scores, scores.labels


def _timeline(section: description.Timeline, canvas: Canvas) -> list[str]:
    found = canvas.find(section.reference, section.hypothesis, *filter(None, [section.uem]))
    if not found:
        return []
    reference, hypothesis = read_rttm([found[0]]), read_rttm([found[1]])
    uem = read_uem(found[2]) if section.uem else None
    result = der.score(reference, hypothesis, uem, section.collar, replications=1)
    recordings = {recording.name: recording for recording in result.recordings}
    if unknown := [name for name in section.recordings if name not in recordings]:
        raise UserError(f"{found[0]}: has no recording {unknown[0]!r}, expected {', '.join(recordings):.200}")
    html = []
    for name in section.recordings or _typical(result):
        turns = reference.get(name, []), hypothesis.get(name, [])
        title = f"{name}: DER {_percent(recordings[name].der)}"
        figure = timeline(*turns, recordings[name].timeline, section.start, section.seconds, title)
        html.append(canvas.picture(figure, f"Reference and hypothesis of {title}, over time"))
    pictures = [_speaker_counts(result, canvas), _overlap(result, canvas)]
    return [*html, page.panels(pictures), page.details("All recordings", _recordings_table(result))]


def _typical(result: DerResult) -> list[str]:
    """The recordings with the lowest, the median and the highest error rate."""
    ranked = sorted((recording.der, recording.name) for recording in result.recordings if recording.scored)
    return list(dict.fromkeys(name for _, name in (ranked[0], median_low(ranked), ranked[-1])))


def _speaker_counts(result: DerResult, canvas: Canvas) -> str:
    pairs = [(recording.ref_speakers, recording.hyp_speakers) for recording in result.recordings]
    numbers = sorted({number for pair in pairs for number in pair})
    counts = np.zeros((len(numbers), len(numbers)), dtype=int)
    for actual, guessed in pairs:
        counts[numbers.index(actual), numbers.index(guessed)] += 1
    right = int(np.trace(counts))
    names = [str(number) for number in numbers]
    figure = bars.confusion(counts, names, "speakers, reference", "speakers, found")
    caption = f"Number of speakers: right for {right} of {len(pairs)} recordings."
    return canvas.picture(figure, f"Confusion matrix of the number of speakers. {caption}", caption)


def _overlap(result: DerResult, canvas: Canvas) -> str:
    pieces = [recording.timeline for recording in result.recordings]
    size = 1 + max(max(piece.ref.shape[1], piece.hyp.shape[1]) for piece in pieces)
    seconds = np.zeros((size, size))
    for piece in pieces:
        at_once = piece.ref.sum(axis=1), piece.hyp.sum(axis=1)
        np.add.at(seconds, at_once, np.diff(piece.edges) * piece.scored)
    size = 1 + max(np.flatnonzero(seconds.any(axis=axis)).max() for axis in (0, 1))
    seconds = seconds[:size, :size]
    names = [str(number) for number in range(size)]
    figure = bars.confusion(seconds, names, "speaking at once, reference", "speaking at once, found")
    caption = "How many people speak at once, in seconds of audio: 0 is silence, 2 and more are overlap."
    return canvas.picture(figure, f"Confusion matrix. {caption}", caption)


def _recordings_table(result: DerResult) -> str:
    errors = ("DER", "missed", "false alarm", "confusion", "JER")
    columns = ("recording", *errors, "speakers", "found", "speech (s)")
    rows = []
    for recording in result.recordings:
        parts = [getattr(recording, part) for part in ("missed", "false_alarm", "confusion")]
        rates = [_percent(part / recording.scored if recording.scored else float("nan")) for part in parts]
        counts = [str(recording.ref_speakers), str(recording.hyp_speakers), f"{recording.scored:.1f}"]
        rows.append([recording.name, _percent(recording.der), *rates, _percent(recording.jer), *counts])
    caption = f"Collar {result.collar:g} s, scored regions: {result.extent}"
    return page.table(columns, rows, caption, range(1, 9))


def _percent(rate: float) -> str:
    return "-" if np.isnan(rate) else f"{100 * rate:.1f} %"


def _quality(section: description.Quality, canvas: Canvas) -> list[str]:
    values: dict[str, dict[str, float]] = {}
    for name, path in canvas.find_each(section.iterations).items():
        _, metrics, _ = read_metrics(path, "quality")
        values[name] = {metric.name: metric.value for metric in metrics}
    if not values:
        return []
    rows = (f"{name}: {', '.join(f'{key} {row[key]:.3f}' for key in row)}" for name, row in values.items())
    text = "; ".join(rows)
    caption = (
        "Purity: share of frames whose token is the most frequent one of their cluster; cluster purity: "
        "the reverse; PNMI: share of the tokens' uncertainty that the clusters take away; even use: entropy "
        "of the clusters, 1 if all are used alike. Higher is better."
    )
    return [page.panels([canvas.picture(bars.groups(values, "share"), f"Label quality. {text}", caption)])]


def _times(section: description.Times, canvas: Canvas) -> list[str]:
    found = canvas.find(section.file)
    if not found:
        return []
    seconds = read_times(found[0])
    caption = f"All stages together: {bars.duration(sum(seconds.values()))}."
    return [page.panels([canvas.picture(bars.times(seconds), f"Time of each stage. {caption}", caption)])]


RENDERERS: dict[str, Callable[..., list[str]]] = {
    "curves": _curves,
    "wer": recognition.error_rates,
    "det": _det,
    "timeline": _timeline,
    "alignment": recognition.alignments,
    "quality": _quality,
    "times": _times,
}

"""Sections about recognition: error rates with examples, and spectrograms with the alignment."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from toolkit.errors import UserError
from toolkit.report import bars, description, page
from toolkit.report.alignment import Posteriors, Token, alignment
from toolkit.report.canvas import Canvas
from toolkit.report.reading import Content, read_content
from toolkit.score.formats import malformed, read_lines
from toolkit.score.transcripts import read_transcripts

if TYPE_CHECKING:
    from lhotse.cut import Cut


def error_rates(section: description.ErrorRates, canvas: Canvas) -> list[str]:
    """Bars with intervals, the kinds of error, and utterances with their errors marked."""
    systems = {name: read_content(path, "wer") for name, path in canvas.find_each(section.systems).items()}
    details = {name: _read_details(path) for name, path in canvas.find_each(section.details).items()}
    if not systems:
        return []
    rows = [(name, *_rate(content, section.metric.lower())) for name, content in systems.items()]
    text = "; ".join(f"{name}: {value:.2f} %" for name, value, *_ in rows)
    figure = bars.intervals(rows, f"{section.metric} (%)")
    notes = ["Whiskers: 95 % bootstrap interval over utterances.", *map(_difference, systems.items())]
    picture = canvas.picture(figure, f"{section.metric}. {text}", " ".join(notes))
    counts = ("substitutions", "deletions", "insertions", "words", "wrong utterances")
    kinds = [_kinds(*item) for item in systems.items()]
    errors = page.table(("system", "WER", *counts, "CER"), kinds, "Kinds of error", range(1, 8))
    return [page.panels([picture]), errors, _examples(details, section.examples) if details else ""]


def _rate(content: Content, key: str) -> list[float]:
    """An error rate and its interval, in percent."""
    return [100 * content.number(key + bound) for bound in ("", "_low", "_high")]


def _difference(system: tuple[str, Content]) -> str:
    """What the paired bootstrap said about a system that was scored against a baseline."""
    name, content = system
    if "wer_difference" not in content.keys:
        return ""
    points, p = 100 * content.number("wer_difference"), content.number("p_one_sided")
    side = "below" if points < 0 else "above"
    return f"{name}: WER {abs(points):.2f} points {side} the baseline (paired bootstrap, p = {p:.2g})."


def _kinds(name: str, content: Content) -> list[str]:
    number = content.number
    counts = [f"{number(key):,.0f}" for key in ("substitutions", "deletions", "insertions", "words")]
    wrong = f"{number('sentence_errors'):,.0f} of {number('utterances'):,.0f}"
    return [name, f"{100 * number('wer'):.2f} %", *counts, wrong, f"{100 * number('cer'):.2f} %"]


Columns = list[tuple[str, str, str]]
"""An aligned utterance: (reference word, hypothesis word, operation C, S, D or I) a column."""


def _read_details(path: Path) -> dict[str, Columns]:
    """Utterance -> alignment, from the lines `id ref|hyp|op ...` that `score wer --details` writes."""
    rows: dict[str, dict[str, list[str]]] = {}
    for line, text in read_lines(path):
        fields = text.split()
        if len(fields) < 2 or fields[1] not in ("ref", "hyp", "op", "#csid"):
            raise malformed(path, line, text, "`id ref|hyp|op|#csid ...` as `score wer --details` writes")
        rows.setdefault(fields[0], {})[fields[1]] = fields[2:]
    aligned = {}
    for name, row in rows.items():
        parts = [row.get(kind, []) for kind in ("ref", "hyp", "op")]
        if len({len(part) for part in parts}) != 1:
            raise UserError(f"{path}: {name}: found ref, hyp and op of different lengths, expected equal")
        aligned[name] = list(zip(*parts, strict=True))
    return aligned


def _examples(details: Mapping[str, Mapping[str, Columns]], count: int) -> str:
    """A list of utterances: the reference, and each system's words with the errors marked."""
    first = next(iter(details.values()))
    names = [name for name in first if all(name in utterances for utterances in details.values())]
    chosen = names[:: max(1, len(names) // max(count, 1))][:count]
    items = []
    for name in chosen:
        reference = " ".join(word for word, _, operation in first[name] if operation != "I")
        lines = [f"<dt>reference</dt><dd>{escape(reference)}</dd>"]
        for system, utterances in details.items():
            words = " ".join(_marked(*column) for column in utterances[name])
            lines.append(f"<dt>{escape(system)}</dt><dd>{words or '<i>nothing</i>'}</dd>")
        items.append(f'<li><p class="name">{escape(name)}</p><dl>{"".join(lines)}</dl></li>')
    legend = (
        '<p class="note">Some utterances, at equal distances: <del>missing word</del>, '
        "<ins>inserted word</ins>, <mark>word in place of another</mark>.</p>"
    )
    return f'{legend}<ol class="examples">{"".join(items)}</ol>'


def _marked(ref: str, hyp: str, operation: str) -> str:
    if operation == "D":
        return f"<del>{escape(ref)}</del>"
    if operation == "I":
        return f"<ins>{escape(hyp)}</ins>"
    return escape(hyp) if operation == "C" else f'<mark title="for: {escape(ref)}">{escape(hyp)}</mark>'


def alignments(section: description.Alignment, canvas: Canvas) -> list[str]:
    """A spectrogram with its tokens, and the sound, an utterance."""
    found = canvas.find(section.cuts, section.ctm)
    if not found:
        return []
    cuts_path, ctm_path = found
    tokens: dict[str, list[Token]] = {}
    for piece in read_transcripts(ctm_path, "ctm").pieces:
        tokens.setdefault(piece.recording, []).append(Token(piece.start, piece.end, piece.text))
    names = section.ids or list(islice(tokens, section.count))
    if unknown := [name for name in names if name not in tokens]:
        raise UserError(f"{ctm_path}: has no utterance {unknown[0]!r}, which the description asks for")
    folder = canvas.find(section.posteriors) if section.posteriors else None
    html = []
    for cut in _cuts(cuts_path, names):
        posteriors = _read_posteriors(folder[0] / f"{cut.id}.npz") if folder else None
        html.append(_alignment(cut, sorted(tokens[cut.id]), posteriors, section, canvas))
    return html


def _cuts(path: Path, names: list[str]) -> Iterator["Cut"]:
    """The cuts of these names, in this order."""
    from toolkit.data.manifests import open_cuts

    found = {}
    for cut in open_cuts(path):
        if cut.id in names:
            found[cut.id] = cut
            if len(found) == len(names):
                break
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path}: has no cut {missing[0]!r}, which the alignment names")
    return (found[name] for name in names)


def _alignment(
    cut: "Cut",
    tokens: list[Token],
    posteriors: Posteriors | None,
    section: description.Alignment,
    canvas: Canvas,
) -> str:
    import torch

    from toolkit.data.audio import load_audio
    from toolkit.nn.features import Fbank, FbankConfig

    seconds = min(section.seconds, cut.duration)
    samples = load_audio(cut)[: round(seconds * cut.sampling_rate)]
    fbank = Fbank(FbankConfig(sample_rate=cut.sampling_rate)).eval()
    with torch.no_grad():
        features, _ = fbank(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    shown = [token for token in tokens if token.start < seconds]
    if posteriors:
        posteriors = posteriors._replace(values=posteriors.values[: round(seconds / posteriors.frame_shift)])
    figure = alignment(features[0].numpy(), fbank.frame_shift, shown, posteriors, cut.id)
    spoken = " ".join(supervision.text for supervision in cut.supervisions if supervision.text)
    caption = f"Transcript: {spoken}" if spoken else ""
    label = f"Spectrogram of {cut.id} with {len(shown)} aligned tokens"
    player = _player(samples, cut.sampling_rate, cut.id) if section.audio else ""
    return canvas.picture(figure, label, caption, player)


def _read_posteriors(path: Path) -> Posteriors | None:
    """Probabilities of one utterance, or None where there are none."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            posteriors = Posteriors(arrays["posteriors"], float(arrays["frame_shift"]))
    except (OSError, KeyError, ValueError, EOFError, TypeError, BadZipFile) as error:
        raise UserError(f"{path}: {error}; expected arrays `posteriors` (T, V) and `frame_shift`") from None
    if posteriors.values.ndim != 2 or posteriors.values.shape[1] < 2 or posteriors.frame_shift <= 0:
        raise UserError(f"{path}: found posteriors {posteriors.values.shape}, expected (frames, tokens)")
    return posteriors


def _player(samples: np.ndarray, sampling_rate: int, name: str) -> str:
    """The sound as a player, FLAC inside the page."""
    import soundfile

    packed = io.BytesIO()
    soundfile.write(packed, np.clip(samples, -1, 1), sampling_rate, format="FLAC", subtype="PCM_16")
    data = base64.b64encode(packed.getvalue()).decode("ascii")
    source = f"data:audio/flac;base64,{data}"
    return f'<audio controls preload="metadata" aria-label="{escape(name)}" src="{source}"></audio>'

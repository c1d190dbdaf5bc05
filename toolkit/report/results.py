"""The figures of merit that a file holds, with their names, intervals and units."""

import math
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError
from toolkit.report.bars import duration
from toolkit.report.reading import Content, kind_of, read_content, read_times

GROUPS = {
    "wer": "Speech recognition",
    "eer": "Speaker verification",
    "der": "Diarization",
    "quality": "Frame labels",
    "times": "Time",
}
QUALITY = {
    "purity": "purity",
    "cluster_purity": "cluster purity",
    "pnmi": "PNMI",
    "usage_entropy": "even use",
}


@dataclass
class Metric:
    """One figure of merit, as a file gives it.

    Attributes:
        key: what a description calls it.
        name: what the table calls it, with the conditions that it holds under.
        value, low, high: the figure and its 95 % interval; nan where there is none.
        unit: "%" (of a fraction), "seconds", or "" (three decimals).
        headline: whether the table lists it unasked.
        over: what the bootstrap of the interval drew, where the table does not say so elsewhere.
    """

    key: str
    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = "%"
    headline: bool = True
    over: str = ""

    def text(self, value: float) -> str:
        """A value of this metric without its unit; durations with it."""
        if self.unit == "seconds":
            return duration(value)
        return f"{100 * value:.2f}" if self.unit == "%" else f"{value:.3f}"

    @property
    def cells(self) -> tuple[str, str]:
        """The value and the interval, as text."""
        unit = " %" if self.unit == "%" else ""
        known = not math.isnan(self.low + self.high)
        interval = f"{self.text(self.low)} to {self.text(self.high)}" if known else ""
        over = f" over {self.over}" if interval and self.over else ""
        return f"{self.text(self.value)}{unit}", interval + over


def read_metrics(path: Path, *kinds: str) -> tuple[str, list[Metric], str]:
    """Reads a file of figures: its kind (a key of GROUPS), its metrics, and what they were scored on.

    Args:
        path: a JSON file with a "metric", or a times.jsonl.
        kinds: the kinds that are welcome; all by default.

    Raises:
        UserError: malformed, or of another kind.
    """
    if path.name.endswith(".jsonl"):
        seconds = read_times(path)
        stages = [
            Metric(name, name, value, unit="seconds", headline=False) for name, value in seconds.items()
        ]
        total = Metric("all stages", "all stages", sum(seconds.values()), unit="seconds")
        return "times", [*stages, total], ""
    content = read_content(path, *(kinds or _READERS))
    kind = kind_of(content.keys)
    return kind, *_READERS[kind](content)


def _wer(content: Content) -> tuple[list[Metric], str]:
    number = content.number
    metrics = [
        Metric("WER", "WER", number("wer"), number("wer_low"), number("wer_high")),
        Metric("CER", "CER", number("cer"), number("cer_low"), number("cer_high")),
    ]
    if "wer_difference" in content.keys:
        name = f"WER minus baseline (p={number('p_one_sided'):.2g})"
        values = (number(f"wer_difference{bound}") for bound in ("", "_low", "_high"))
        metrics.append(Metric("difference", name, *values))
    return metrics, f"{number('utterances'):,.0f} utterances"


def _eer(content: Content) -> tuple[list[Metric], str]:
    number, drawn = content.number, content.keys.get("bootstrap_unit")
    if drawn not in ("trials", "speakers"):
        raise UserError(
            f"{content.path}: bootstrap_unit: found {drawn!r:.40}, expected 'trials' or 'speakers'"
        )
    # An interval over trials is too narrow where few speakers share them, so the table names the unit.
    metrics = [Metric("EER", "EER", number("eer"), number("eer_low"), number("eer_high"), over=drawn)]
    for prior in content.items("p_target", int | float):
        metrics.append(Metric("minDCF", f"minDCF (p={prior:g})", number(f"min_dcf_p{prior:g}"), unit=""))
    metrics.append(Metric("Cllr", "Cllr (bits)", number("cllr"), unit=""))
    return metrics, f"{number('trials'):,.0f} trials"


def _der(content: Content) -> tuple[list[Metric], str]:
    number = content.number
    how = f"collar {number('collar'):g} s" + (", overlap skipped" if content.keys.get("skip_overlap") else "")
    metrics = [
        Metric("DER", f"DER ({how})", number("der"), number("der_low"), number("der_high")),
        Metric("miss", "missed speech", number("miss")),
        Metric("false alarm", "false alarm", number("false_alarm")),
        Metric("confusion", "speaker confusion", number("confusion")),
        Metric("JER", "JER", number("jer")),
    ]
    return metrics, f"{len(content.items('recordings')):,} recordings"


def _quality(content: Content) -> tuple[list[Metric], str]:
    number = content.number
    metrics = [Metric(name, name, number(key), unit="") for key, name in QUALITY.items()]
    # Labels without a reference alignment have only what can be told from the labels themselves.
    known = [metric for metric in metrics if not math.isnan(metric.value)]
    frames = number("num_frames" if content.keys.get("reference_frames") is None else "reference_frames")
    return known, f"{frames:,.0f} frames"


_READERS = {"wer": _wer, "eer": _eer, "der": _der, "quality": _quality}

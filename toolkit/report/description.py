"""What a page shows: a small YAML or JSON file that a recipe writes once, checked key by key.

A description has a title, a list of results for the summary table, and a list of sections::

    title: From raw recordings to scores
    results:
      - {name: CTC from scratch, file: asr-scratch/wer.json, data: real}
      - {name: x-vector, file: speaker/eer-tts.json, data: tts, metrics: [EER, minDCF]}
    sections:
      - kind: curves
        title: Pretraining
        runs: {iteration 1: pretrain-1, iteration 2: pretrain-2}
      - kind: det
        scores: {real voices: speaker/scores-real, synthetic voices: speaker/scores-tts}
        trials: {real voices: "{data}/trials-real", synthetic voices: "{data}/trials-tts"}

Paths are relative to the experiment folder; "{data}" stands for the folder given with --data. A file that is
not there is shown as not run, so that one description serves a recipe that was stopped half way.
"""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from toolkit import config
from toolkit.errors import UserError

Data = Literal["real", "tts", "sim", ""]
DATA_NAMES = {
    "real": "real recordings",
    "tts": "synthetic voices",
    "sim": "simulated meetings",
    "": "not stated",
}


@dataclass(kw_only=True)
class Result:
    """One file of figures, for the summary table."""

    name: str
    """The system, as the table shall name it."""
    file: str
    """What `score ... --json` wrote, a label quality JSON, or a times.jsonl."""
    data: Data = ""
    """real (recordings of people), tts (synthetic voices) or sim (simulated meetings)."""
    set: str = ""
    """Name of the test set, if there are several."""
    metrics: list[str] = field(default_factory=list)
    """Which of the file's metrics to list, such as WER, EER, DER, or stages; the headlines by default."""


@dataclass(kw_only=True)
class Section:
    """What all kinds of section have."""

    kind: str
    """Which of the kinds this section is."""
    title: str = ""
    """Heading; the kind's own by default."""
    text: str = ""
    """A sentence or two below the heading."""

    heading = ""


@dataclass(kw_only=True)
class Curves(Section):
    """Loss, statistics and learning rate of experiments, overlaid."""

    runs: dict[str, str]
    """Name -> experiment folder (that holds metrics.jsonl) or metrics file."""
    values: dict[str, str] = field(default_factory=dict)
    """Key in metrics.jsonl -> axis label with unit; all statistics by default."""
    x: Literal["step", "epoch", "elapsed"] = "step"
    """What goes along the x axis."""
    log_x: bool = False
    """Whether the x axis is logarithmic."""

    heading = "Training"


@dataclass(kw_only=True)
class ErrorRates(Section):
    """Word error rates side by side, with bootstrap intervals and the kinds of error."""

    systems: dict[str, str]
    """Name -> what `score wer --json` wrote."""
    metric: Literal["WER", "CER"] = "WER"
    """The error rate that the bars show."""
    details: dict[str, str] = field(default_factory=dict)
    """Name -> what `score wer --details` wrote, to show some utterances with the errors marked."""
    examples: int = 6
    """How many utterances, taken at equal distances from the whole set."""

    heading = "Recognition"


@dataclass(kw_only=True)
class Det(Section):
    """DET curves and histograms of verification scores."""

    scores: dict[str, str]
    """Name -> score file."""
    trials: dict[str, str] = field(default_factory=dict)
    """Name -> trial file, where the score file has no labels of its own."""
    p_target: float = 0.01
    """Prior of a target trial, for the minDCF point."""

    heading = "Speaker verification"

    def __post_init__(self) -> None:
        if unknown := sorted(self.trials.keys() - self.scores.keys()):
            raise ValueError(
                f"trials: found {unknown[0]!r}, expected names of `scores`: {', '.join(self.scores)}"
            )
        if not 0 < self.p_target < 1:
            raise ValueError(f"p_target: found {self.p_target}, expected a probability between 0 and 1")


@dataclass(kw_only=True)
class Timeline(Section):
    """Who spoke when: reference and hypothesis of some recordings, error rates and speaker counts of all."""

    reference: str
    """RTTM of the reference."""
    hypothesis: str
    """RTTM of the hypothesis."""
    uem: str = ""
    """UEM with the scored regions."""
    collar: float = 0.0
    """Seconds around reference boundaries that are not scored."""
    recordings: list[str] = field(default_factory=list)
    """Which recordings to draw; by default the best, the median and the worst."""
    start: float = 0.0
    """First second drawn."""
    seconds: float = 120.0
    """How much of a recording is drawn at most."""

    heading = "Diarization"


@dataclass(kw_only=True)
class Alignment(Section):
    """Spectrograms of utterances with the alignment below."""

    cuts: str
    """Manifest with the audio."""
    ctm: str
    """Alignment: `cut-id channel start duration token` a line, times in seconds from the start of the cut."""
    posteriors: str = ""
    """Folder of <cut-id>.npz: `posteriors` (T, V), token 0 is the blank, and `frame_shift` in seconds."""
    ids: list[str] = field(default_factory=list)
    """Which utterances; the first `count` of the CTM by default."""
    count: int = 2
    """How many, where `ids` names none."""
    seconds: float = 10.0
    """How much of an utterance is drawn at most."""
    audio: bool = True
    """Whether the page holds the sound, to listen along."""

    heading = "Alignment"


@dataclass(kw_only=True)
class Quality(Section):
    """How well frame labels agree with known units."""

    iterations: dict[str, str]
    """Name -> label quality JSON."""

    heading = "Quality of the frame labels"


@dataclass(kw_only=True)
class Times(Section):
    """How long the stages took."""

    file: str = "times.jsonl"
    """One {"stage": name, "seconds": number} a line; a stage that ran twice counts with its last line."""

    heading = "Time"


KINDS: dict[str, type[Section]] = {
    "curves": Curves,
    "wer": ErrorRates,
    "det": Det,
    "timeline": Timeline,
    "alignment": Alignment,
    "quality": Quality,
    "times": Times,
}


@dataclass(kw_only=True)
class Description:
    """One page."""

    title: str = "Report"
    """Heading of the page."""
    text: str = ""
    """What was done, in a paragraph."""
    results: list[Result] = field(default_factory=list)
    """Rows of the summary table, in order."""
    sections: list[Section] = field(default_factory=list)
    """The pictures, in order."""


def reference() -> str:
    """All keys of a description with their defaults and meaning, as YAML."""
    parts = ["# The page\n", config.describe(Description()), "\n# A row of `results`\n", _described(Result)]
    parts.append("\n# Rows of `sections`; title is the heading, text stands below it\n")
    for kind, section in KINDS.items():
        about = (section.__doc__ or "").strip()
        parts += [f"\n# {about}\n", _described(section, kind=kind)]
    return "".join(parts)


def _described(cls: type, **given: str) -> str:
    """A dataclass as commented YAML; keys that must be given are shown empty."""
    required = [row for row in fields(cls) if row.default is MISSING and row.default_factory is MISSING]
    empty = {row.name: {} if "dict" in str(row.type) else "" for row in required}
    return config.describe(cls(**{**empty, **given}))


def load(path: str | Path) -> Description:
    """Reads a description.

    Raises:
        UserError: unreadable YAML, an unknown kind or key (with the nearest valid one), a wrong type.
    """
    raw = config.read_yaml(path)
    results = [
        config.build(Result, row, f"{path}: results[{index}]") for index, row in _items(raw, "results", path)
    ]
    sections = [_section(row, f"{path}: sections[{index}]") for index, row in _items(raw, "sections", path)]
    page = config.build(Description, {**raw, "results": [], "sections": []}, str(path))
    page.results, page.sections = results, sections
    return page


def _items(raw: dict, key: str, path: str | Path) -> list[tuple[int, Any]]:
    found = raw.get(key, [])
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path}: {key}: found {found!r:.60}, expected a list of mappings")
    return list(enumerate(found))


def _section(raw: dict, where: str) -> Section:
    kind = raw.get("kind")
    if kind not in KINDS:
        raise UserError(f"{where}.kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    return config.build(KINDS[kind], raw, f"{where} ({kind})")


@dataclass
class Places:
    """Where the paths of a description lead."""

    exp: Path
    """The experiment folder."""
    data: Path | None = None
    """What "{data}" stands for."""

    def __call__(self, path: str) -> Path:
        """The path as it is on disk; absolute paths stay."""
        if "{data}" in path:
            if self.data is None:
                raise UserError(f'{path}: "{{data}}" needs --data DIR on the command line')
            path = path.replace("{data}", str(self.data))
        return self.exp / path

"""Splitting cuts into training, validation and test sets by a hash, so that equal things stay together."""

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.data.manifests import line_of
from toolkit.errors import UserError
from toolkit.files import atomic_write

if TYPE_CHECKING:
    from lhotse.cut import Cut

SPLITS = ("train", "valid", "test")
KEYS = ("sentence", "speaker", "file")


@dataclass(frozen=True)
class Split:
    """How cuts are split."""

    valid: float = 0.05
    """Share for validation."""
    test: float = 0.05
    """Share for testing."""
    by: str = "sentence"
    """What stays together: cuts of the same sentence, speaker or file. Cuts without text go by file."""
    seed: int = 0
    """Decides which go where."""

    def __post_init__(self):
        if not (0 <= self.valid and 0 <= self.test and self.valid + self.test < 1):
            raise UserError(
                f"shares for validation and testing: found {self.valid:g} and {self.test:g}, "
                "expected two shares whose sum is below 1"
            )
        if self.by not in KEYS:
            raise UserError(f"split by: found {self.by!r}, expected one of {', '.join(KEYS)}")

    def place(self, cut: "Cut") -> str:
        """The split of a cut: train, valid or test."""
        number = draw(f"{self.seed}/{self._key(cut)}")
        return "test" if number < self.test else "valid" if number < self.test + self.valid else "train"

    def _key(self, cut: "Cut") -> str:
        if self.by == "speaker":
            speakers = sorted({item.speaker for item in cut.supervisions if item.speaker})
            if len(speakers) != 1:
                raise UserError(f"{cut.id}: found {len(speakers)} speakers, expected one to split by speaker")
            return speakers[0]
        text = " ".join(item.text for item in cut.supervisions if item.text) if self.by == "sentence" else ""
        return text or (cut.recording.id if cut.has_recording else cut.id)


def draw(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12


@dataclass
class Count:
    """What a split holds."""

    cuts: int = 0
    seconds: float = 0.0
    shortest: float = float("inf")
    longest: float = 0.0
    speakers: set[str] = field(default_factory=set)
    transcribed: int = 0

    def add(self, cut: "Cut") -> None:
        self.cuts += 1
        self.seconds += cut.duration
        self.shortest = min(self.shortest, cut.duration)
        self.longest = max(self.longest, cut.duration)
        self.speakers.update(item.speaker for item in cut.supervisions if item.speaker)
        self.transcribed += any(item.text for item in cut.supervisions)


def write_splits(
    cuts: Iterable["Cut"], folder: str | Path, split: Split, together: bool = False
) -> dict[str, Count]:
    """Writes cuts_{train,valid,test}.jsonl.gz in one pass; splits of share 0 get no file.

    Args:
        cuts: the cuts.
        folder: where to write.
        split: which goes where.
        together: write all of them to cuts.jsonl.gz as well.

    Returns:
        What each split holds; nothing is written if there is no cut at all.
    """
    shares = {"train": 1.0, "valid": split.valid, "test": split.test}
    counts = {name: Count() for name, share in shares.items() if share > 0}
    paths = {name: Path(folder) / f"cuts_{name}.jsonl.gz" for name in counts}
    cuts = iter(cuts)
    first = next(cuts, None)
    if first is None:
        return counts
    for name in shares.keys() - counts.keys():
        # What an earlier run left there would not fit the new sets.
        (Path(folder) / f"cuts_{name}.jsonl.gz").unlink(missing_ok=True)
    with ExitStack() as stack:
        files = {name: stack.enter_context(atomic_write(path)) for name, path in paths.items()}
        everything = stack.enter_context(atomic_write(Path(folder) / "cuts.jsonl.gz")) if together else None
        for cut in chain((first,), cuts):
            name = split.place(cut)
            line = line_of(cut)
            files[name].write(line)
            if everything is not None:
                everything.write(line)
            counts[name].add(cut)
    return counts


def table(counts: dict[str, Count]) -> str:
    """The counts as text."""
    lines = ["           cuts    hours  speakers  transcribed  shortest    mean  longest"]
    for name, count in counts.items():
        held = f"{count.cuts:9} {count.seconds / 3600:8.2f} {len(count.speakers):9} {count.transcribed:12}"
        times = (
            f"{count.shortest:7.2f} s {count.seconds / count.cuts:5.1f} s {count.longest:6.1f} s"
            if count.cuts
            else ""
        )
        lines.append(f"{name:6}{held} {times}".rstrip())
    return "\n".join(lines)

"""Sentences, for models of text: read from files of any size, grouped by length.

The sentences of a text file come in blocks. A block is shuffled, ordered by length and cut into groups, and these are
shuffled again. So groups hold sentences of like length, memory does not grow with the file, and where a run stopped is
found again by reading and counting alone: nothing needs to be cut into tokens for that.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lhotse.cut import Cut

from toolkit.data.sampling import Stream
from toolkit.data.validate import skipped_row
from toolkit.files import read_lines


class Sentence(NamedTuple):
    """What is said, and where it stands."""

    id: str
    """The cut, or file:line."""
    text: str


@dataclass
class TextSamplerConfig:
    """How sentences become batches."""

    max_characters: int = 50000
    """Characters in a batch, padding and ends of sentences included; a piece of a bpe model has about 3 of them."""
    max_length: int = 1000
    """Characters of a sentence; longer ones are left out, and listed in skipped.jsonl, as are empty ones."""
    buffer_size: int = 200000
    """Sentences that are held in memory for shuffling and ordering."""
    num_workers: int = 0
    """Processes that cut text into tokens on each rank; 0 does it in the training process."""

    def __post_init__(self) -> None:
        if not 0 < self.max_length < self.max_characters:
            raise ValueError(
                f"max_length must be over 0 and below max_characters, got {self.max_length} and {self.max_characters}"
            )
        if self.buffer_size < 1 or self.num_workers < 0:
            raise ValueError(
                "buffer_size must be positive and num_workers not negative, got "
                f"{self.buffer_size} and {self.num_workers}"
            )


class TextLines:
    """The lines of a text file as sentences, read anew by every iteration; see `read_lines` for what is refused."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Sentence]:
        for number, line in enumerate(read_lines(self.path, "text, a sentence a line"), 1):
            yield Sentence(f"{self.path}:{number}", line.strip())


class Transcribed:
    """The transcripts of cuts as sentences, read anew by every iteration."""

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self.cuts = cuts

    def __iter__(self) -> Iterator[Sentence]:
        for cut in self.cuts:
            yield Sentence(cut.id, transcript(cut).strip())


def transcript(cut: Cut) -> str:
    """What is said in a cut."""
    return " ".join(segment.text for segment in cut.supervisions if segment.text)


class TextStream(Stream):
    """Groups of sentences of like length; empty and long ones are left out.

    Args:
        sentences: what to draw from; iterated over anew in every epoch, not held in memory.
        config: how sentences become batches.
        seed: of the shuffling.
        shuffle: False gives one fixed order, for validation.
        source: where the sentences come from, for messages.
    """

    def __init__(
        self,
        sentences: Iterable[Sentence],
        config: TextSamplerConfig,
        seed: int,
        shuffle: bool,
        source: str,
    ) -> None:
        nothing = (
            f"{source}: found no sentence of 1 to {config.max_length} characters (data.sampler.max_length), "
        )
        super().__init__(seed, config.num_workers, nothing + "expected at least one")
        self.sentences, self.config, self.shuffle, self.source = sentences, config, shuffle, source

    def epoch(self, epoch: int) -> Iterator[list[Sentence]]:
        """The groups of one pass over the data."""
        rng = random.Random(f"{self.seed}/{epoch}")
        wanted = filter(self._is_wanted, self.sentences)
        while block := list(islice(wanted, self.config.buffer_size)):
            if self.shuffle:
                rng.shuffle(block)
            groups = list(self._groups(block))
            if self.shuffle:
                rng.shuffle(groups)
            yield from groups

    def _groups(self, block: list[Sentence]) -> Iterator[list[Sentence]]:
        group: list[Sentence] = []
        for sentence in sorted(block, key=lambda sentence: len(sentence.text)):
            if (len(group) + 1) * (len(sentence.text) + 1) > self.config.max_characters:
                yield group
                group = []
            group.append(sentence)
        yield group

    def _is_wanted(self, sentence: Sentence) -> bool:
        length, most = len(sentence.text), self.config.max_length
        if 0 < length <= most:
            return True
        reason = (
            f"too long: {length} characters, limit {most} (data.sampler.max_length)" if length else "empty"
        )
        self.left_out[sentence.id] = skipped_row(sentence.id, self.source, reason)
        return False

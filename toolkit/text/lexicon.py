"""Pronunciation lexicons in Kaldi's form: a word and its phones a line, several lines for several pronunciations."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError
from toolkit.files import atomic_write, read_lines

STAND_INS = ("<UNK>", "<unk>", "<SPOKEN_NOISE>")
"""Words whose pronunciation stands for that of all that a lexicon lacks, where it has them; the first found counts."""

RESERVED = re.compile(r"<eps>|<s>|</s>|<blk>|#\d+")
"""Symbols of decoding graphs, which are neither words nor phones."""

Pronunciation = tuple[str, ...]


@dataclass
class Lexicon:
    """What words sound like."""

    pronunciations: dict[str, list[Pronunciation]]
    """Word -> its pronunciations, in the order of the file."""

    @property
    def phones(self) -> list[str]:
        """All phones, sorted."""
        return sorted(
            {phone for entry in self.pronunciations.values() for phones in entry for phone in phones}
        )

    def __getitem__(self, word: str) -> Pronunciation | None:
        """The first pronunciation of a word, or of what stands for unknown words; None if there is neither."""
        for name in (word, *STAND_INS):
            if name in self.pronunciations:
                return self.pronunciations[name][0]
        return None

    def save(self, path: str | Path) -> None:
        """Writes the file that `read_lexicon` reads."""
        with atomic_write(path) as file:
            for word, entries in self.pronunciations.items():
                file.writelines(f"{word} {' '.join(phones)}\n" for phones in entries)


def read_lexicon(path: str | Path, phones: Collection[str] | None = None) -> Lexicon:
    """Reads a lexicon; a line that stands in it twice counts once.

    Args:
        path: the file.
        phones: if given, those that it may use.

    Raises:
        UserError: with file and line: a word without phones, a reserved symbol, a pronunciation probability
            (as in lexiconp.txt), or a phone that is not among `phones`; or there are no words.
    """
    pronunciations: dict[str, list[Pronunciation]] = {}
    for number, line in enumerate(read_lines(path, "a lexicon, a word and its phones a line"), 1):
        fields = line.split()
        if not fields:
            continue
        word, spoken = fields[0], tuple(fields[1:])
        if not spoken:
            raise UserError(f"{path}:{number}: found {word!r} without phones, expected a word and its phones")
        if reserved := [field for field in fields if RESERVED.fullmatch(field)]:
            raise UserError(
                f"{path}:{number}: found {reserved[0]}, which is reserved, expected words and phones"
            )
        if re.fullmatch(r"[01]\.\d*", spoken[0]):
            raise UserError(f"{path}:{number}: found the probability {spoken[0]}, expected phones only")
        if phones is not None and (strange := [phone for phone in spoken if phone not in phones]):
            raise UserError(f"{path}:{number}: found {strange[0]!r}, which is no token of the model")
        entries = pronunciations.setdefault(word, [])
        if spoken not in entries:
            entries.append(spoken)
    if not pronunciations:
        raise UserError(f"{path}: found no words, expected a word and its phones a line")
    return Lexicon(pronunciations)

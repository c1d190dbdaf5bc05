"""ARPA files, the text form of n-gram models, as SRILM, KenLM and others read and write it; ".gz" names are compressed.

Log-probabilities and back-off weights are decimal logarithms.
"""

import gzip
import re
import zlib
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from toolkit.errors import UserError
from toolkit.files import atomic_write
from toolkit.text.backoff import ABSENT, BEGIN, END, UNKNOWN_WORDS, BackoffModel

CHUNK = 100_000
"""N-grams that are written at once."""


def read_arpa(path: str | Path, vocabulary: Collection[str] | None = None) -> BackoffModel:
    """Reads an n-gram model of any order.

    Args:
        path: the file.
        vocabulary: if given, the file may hold no other words, but for <s>, </s> and <unk>.

    Raises:
        UserError: with file and line, where the file is not what it says or lacks what a model needs.
    """
    return _Reader(Path(path)).read(vocabulary)


def write_arpa(path: str | Path, model: BackoffModel) -> None:
    """Writes an n-gram model, atomically; what `read_arpa` reads of it is the same model, to the last bit."""
    with atomic_write(path) as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={size}\n" for order, size in enumerate(model.sizes, 1))
        begin, contexts = 0, np.zeros((1, 0), dtype=np.int32)
        for order, size in enumerate(model.sizes, 1):
            file.write(f"\n\\{order}-grams:\n")
            nodes, words = np.divmod(model.keys[begin : begin + size], len(model.words))
            # Contexts are n-grams of the order below, whose nodes follow one another.
            first = begin - len(contexts) + 1
            grams = np.column_stack([contexts[nodes - first], words.astype(np.int32)])
            for start in range(0, size, CHUNK):
                _write_chunk(file, model, grams[start : start + CHUNK], begin + start, order == model.order)
            begin, contexts = begin + size, grams
        file.write("\n\\end\\\n")


def _write_chunk(file: IO[str], model: BackoffModel, grams: np.ndarray, begin: int, longest: bool) -> None:
    here = slice(begin, begin + len(grams))
    # Numpy writes as many digits as it takes to read the same float32.
    log_probs, backoffs = model.log_probs[here].astype(str), model.backoffs[here].astype(str)
    names = model.words
    for log_prob, backoff, gram in zip(log_probs, backoffs, grams.tolist(), strict=True):
        text = " ".join([names[word] for word in gram])
        file.write(f"{log_prob}\t{text}\n" if longest else f"{log_prob}\t{text}\t{backoff}\n")


class _Reader:
    """Reads one file; `number` is the line that was read last."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self.ids: dict[bytes, int] = {}
        self.sizes: list[int] = []
        self.keys = np.zeros(0, dtype=np.int64)
        self.log_probs = self.backoffs = np.zeros(0, dtype=np.float32)
        self.numbers = np.zeros(0, dtype=np.int64)
        """Line of each n-gram."""

    def read(self, vocabulary: Collection[str] | None) -> BackoffModel:
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file, expected an ARPA file")
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else open(self.path, "rb") as file:
                lines = self._lines(file)
                for order, count in enumerate(self._counts(lines), 1):
                    self._section(lines, order, count)
                    if order == 1:
                        words = self._words(vocabulary)
                self._expect(lines, b"\\end\\")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            self._fail(f"damaged gzip file ({error})", after=1)
        self._check_backoffs()
        return BackoffModel(words, self.sizes, self.keys, self.log_probs, self.backoffs, str(self.path))

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        for line in file:
            self.number += 1
            yield line

    def _fail(self, found: str, expected: str = "", number: int | None = None, after: int = 0) -> NoReturn:
        where = self.number + after if number is None else number
        raise UserError(f"{self.path}:{where}: {found}" + (f", expected {expected}" if expected else ""))

    def _next(self, lines: Iterator[bytes], expected: str) -> bytes:
        """The next line that is not empty, without its end."""
        for line in lines:
            if line := line.strip():
                return line
        self._fail("the file ends here", expected)

    def _expect(self, lines: Iterator[bytes], header: bytes) -> None:
        line = self._next(lines, header.decode())
        if line != header:
            self._fail(f"found {_shown(line)}", header.decode())

    def _counts(self, lines: Iterator[bytes]) -> list[int]:
        """Number of n-grams of each order, as the head of the file says."""
        # What stands above is a comment.
        while self._next(lines, "\\data\\, with which an ARPA file begins") != b"\\data\\":
            continue
        counts: list[int] = []
        for line in lines:
            if not line.strip():
                if counts:
                    return counts
                continue
            found = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d+)", line.strip())
            if found is None or int(found[1]) != len(counts) + 1:
                self._fail(
                    f"found {_shown(line)}", f"'ngram {len(counts) + 1}=' and a number, or an empty line"
                )
            counts.append(int(found[2]))
        self._fail("the file ends here", "an empty line and \\1-grams:")

    def _section(self, lines: Iterator[bytes], order: int, count: int) -> None:
        """Reads all n-grams of an order."""
        self._expect(lines, b"\\%d-grams:" % order)
        begin = self.number + 1
        log_probs, backoffs, words = array("d"), array("d"), array("i")
        for line in lines:
            fields = line.split()
            if not fields:
                break
            if fields[0].startswith(b"\\") and len(fields) == 1:
                self._fail(f"found {_shown(line)}", "an empty line before it")
            try:
                log_probs.append(float(fields[0]))
                backoffs.append(float(fields[order + 1]) if len(fields) > order + 1 else np.nan)
                if order == 1:
                    words.append(self.ids.setdefault(fields[1], len(self.ids)))
                else:
                    words.extend([self.ids[word] for word in fields[1 : order + 1]])
            except (ValueError, IndexError, KeyError):
                self._complain(line, fields, order)
            if not order < len(fields) < order + 3:
                self._complain(line, fields, order)
        if len(log_probs) != count:
            self._fail(f"found {len(log_probs)} {order}-grams", f"{count} as \\data\\ says")
        numbers = np.arange(begin, begin + count)
        self._check_numbers(numbers, np.asarray(log_probs), np.asarray(backoffs))
        keys = self._keys(np.asarray(words, dtype=np.int64).reshape(count, order), numbers)
        ranks = np.argsort(keys, kind="stable")
        if len(repeated := np.flatnonzero(np.diff(keys[ranks]) == 0)):
            self._fail(
                f"found an n-gram again (first on line {numbers[ranks[repeated[0]]]})",
                "each once",
                numbers[ranks[repeated[0] + 1]],
            )
        self.sizes.append(count)
        self.keys = np.concatenate([self.keys, keys[ranks]])
        self.numbers = np.concatenate([self.numbers, numbers[ranks]])
        log_probs, backoffs = (np.asarray(row, dtype=np.float32)[ranks] for row in (log_probs, backoffs))
        # Some programs write minus infinity for a probability of 0.
        self.log_probs = np.concatenate([self.log_probs, np.maximum(log_probs, np.float32(ABSENT))])
        self.backoffs = np.concatenate([self.backoffs, backoffs])

    def _complain(self, line: bytes, fields: list[bytes], order: int) -> NoReturn:
        """Says what is wrong with the line of an n-gram."""
        form = f"a logarithm, {order} words and at most a back-off weight"
        if not order < len(fields) < order + 3:
            self._fail(f"found {_shown(line)}", form)
        for word in fields[1 : order + 1]:
            if order > 1 and word not in self.ids:
                self._fail(f"found {_shown(word)}, which is no unigram", "words of \\1-grams:")
        self._fail(f"found {_shown(line)}", form)

    def _check_numbers(self, numbers: np.ndarray, log_probs: np.ndarray, backoffs: np.ndarray) -> None:
        if len(wrong := np.flatnonzero(~(log_probs <= 0))):
            found = log_probs[wrong[0]]
            self._fail(f"found {found:g}", "the logarithm of a probability", numbers[wrong[0]])
        if len(wrong := np.flatnonzero(np.isinf(backoffs))):
            self._fail(f"found {backoffs[wrong[0]]:g}", "a back-off weight", numbers[wrong[0]])

    def _keys(self, grams: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(M,) keys of n-grams (M, order) of words."""
        nodes = np.zeros(len(grams), dtype=np.int64)
        for column in grams.T[:-1]:
            keys = nodes * len(self.ids) + column
            places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            if len(wrong := np.flatnonzero(self.keys[places] != keys)):
                self._fail(
                    f"found an n-gram whose first {grams.shape[1] - 1} words are not listed",
                    "them above",
                    numbers[wrong[0]],
                )
            nodes = places + 1
        return nodes * len(self.ids) + grams[:, -1]

    def _words(self, vocabulary: Collection[str] | None) -> list[str]:
        """The unigrams, in the order of the file."""
        words = []
        for word, number in zip(self.ids, self.numbers.tolist(), strict=True):
            try:
                words.append(word.decode())
            except UnicodeDecodeError:
                self._fail("found a word that is not UTF-8", number=number)
        for needed in (BEGIN, END):
            if needed not in words:
                raise UserError(f"{self.path}: found no {needed} among {len(words)} unigrams, expected it")
        if vocabulary is not None:
            known = {*vocabulary, BEGIN, END, *UNKNOWN_WORDS}
            wrong = [index for index, word in enumerate(words) if word not in known]
            if wrong:
                names = ", ".join(repr(words[index]) for index in wrong[:3])
                more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                self._fail(
                    f"found {names}{more}, which are no tokens of the model",
                    "an n-gram model over its tokens",
                    int(self.numbers[wrong[0]]),
                )
        return words

    def _check_backoffs(self) -> None:
        """What is continued needs a back-off weight; for the rest it is 0 if it is missing."""
        contexts = np.unique(self.keys // max(1, len(self.ids)))
        contexts = contexts[contexts > 0]
        if (missing := np.isnan(self.backoffs[contexts - 1])).any():
            number = int(self.numbers[contexts[missing] - 1].min())
            self._fail("found no back-off weight", "one, as longer n-grams begin with this one", number)
        self.backoffs = np.nan_to_num(self.backoffs)


def _shown(text: bytes) -> str:
    shown = text.strip().decode(errors="replace")
    return repr(shown if len(shown) <= 60 else f"{shown[:60]}...")

"""Word and character error rates; jiwer does the alignment."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jiwer
import numpy as np

from toolkit.score.bootstrap import interval, or_none, ratio, ratio_interval, resampled_sums
from toolkit.score.errors import ScoreError

LETTERS = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}


@dataclass(frozen=True)
class Counts:
    """Results of alignments, in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @classmethod
    def of(cls, operations: str) -> "Counts":
        """Counts the letters C, S, D and I of an alignment."""
        return cls(*(operations.count(letter) for letter in "CSDI"))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def length(self) -> int:
        """The length of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over the length of the reference; nan for an empty one, which has no rate of its own."""
        return self.errors / self.length if self.length else float("nan")


@dataclass(frozen=True)
class Utterance:
    """One utterance: its words, and its alignment as a letter a column (C correct, S, D, I)."""

    id: str
    speaker: str | None
    ref: list[str]
    hyp: list[str]
    operations: str
    words: Counts
    characters: Counts

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """Yields (reference word, hypothesis word, operation); "" where one side has no word."""
        ref, hyp = iter(self.ref), iter(self.hyp)
        for letter in self.operations:
            yield next(ref) if letter != "I" else "", next(hyp) if letter != "D" else "", letter


@dataclass(frozen=True)
class WerResult:
    """Error rates of a test set; every rate is a fraction, not a percentage.

    An empty reference adds its insertions to the errors and nothing to the number of words.

    Attributes:
        utterances: in the order of the reference.
        replications, seed: of the bootstrap, which draws utterances with replacement.
    """

    utterances: list[Utterance]
    replications: int
    seed: int

    @cached_property
    def words(self) -> Counts:
        return sum((utterance.words for utterance in self.utterances), Counts())

    @cached_property
    def characters(self) -> Counts:
        return sum((utterance.characters for utterance in self.utterances), Counts())

    @property
    def wer(self) -> float:
        return self.words.rate

    @property
    def cer(self) -> float:
        return self.characters.rate

    @cached_property
    def wer_interval(self) -> tuple[float, float]:
        """The 95 % percentile interval of the word error rate."""
        return ratio_interval(*self._arrays("words"), self.replications, self.seed)

    @cached_property
    def cer_interval(self) -> tuple[float, float]:
        """The 95 % percentile interval of the character error rate."""
        return ratio_interval(*self._arrays("characters"), self.replications, self.seed)

    @property
    def sentence_errors(self) -> int:
        """How many utterances have an error."""
        return sum(utterance.words.errors > 0 for utterance in self.utterances)

    def speakers(self) -> dict[str, tuple[int, Counts]]:
        """Speaker -> (number of utterances, word counts), sorted by name; empty where no speaker is known."""
        table: dict[str, tuple[int, Counts]] = {}
        for utterance in self.utterances:
            name = utterance.speaker or "(unknown)"
            number, counts = table.get(name, (0, Counts()))
            table[name] = number + 1, counts + utterance.words
        return dict(sorted(table.items())) if set(table) != {"(unknown)"} else {}

    def confusions(self, letter: str, top: int | None) -> list[tuple[str, str, int]]:
        """The `top` most frequent (reference word, hypothesis word, count) of an operation S, D or I; None for all."""
        pairs = ((ref, hyp, count) for (ref, hyp, op), count in self._columns.items() if op == letter)
        return sorted(pairs, key=lambda row: (-row[2], row[:2]))[:top]

    @cached_property
    def _columns(self) -> Counter[tuple[str, str, str]]:
        """How often each column of the alignments occurs, correct ones left out."""
        columns = (column for utterance in self.utterances for column in utterance.columns())
        return Counter(column for column in columns if column[2] != "C")

    def details(self) -> Iterator[str]:
        """Yields four lines an utterance: ref, hyp, op and #csid, as Kaldi's `per_utt` files have them."""
        for utterance in self.utterances:
            columns = [(ref or "***", hyp or "***", op) for ref, hyp, op in utterance.columns()]
            widths = [max(map(len, column)) for column in columns]
            for row, label in enumerate(("ref", "hyp", "op")):
                cells = (column[row].ljust(width) for column, width in zip(columns, widths, strict=True))
                yield f"{utterance.id} {label:<5} {'  '.join(cells)}".rstrip()
            csid = (utterance.operations.count(letter) for letter in "CSID")
            yield f"{utterance.id} #csid {' '.join(map(str, csid))}"

    def to_dict(self, top: int = 10) -> dict[str, Any]:
        """The flat content of `--json`; docs/scoring.md explains the keys."""
        (wer_low, wer_high), (cer_low, cer_high) = self.wer_interval, self.cer_interval
        words, characters = self.words, self.characters
        return {
            "metric": "wer",
            "wer": words.rate,
            "wer_low": or_none(wer_low),
            "wer_high": or_none(wer_high),
            "cer": characters.rate,
            "cer_low": or_none(cer_low),
            "cer_high": or_none(cer_high),
            "ser": self.sentence_errors / len(self.utterances),
            "utterances": len(self.utterances),
            "sentence_errors": self.sentence_errors,
            "words": words.length,
            "hits": words.hits,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "characters": characters.length,
            "character_hits": characters.hits,
            "character_substitutions": characters.substitutions,
            "character_deletions": characters.deletions,
            "character_insertions": characters.insertions,
            "replications": self.replications,
            "seed": self.seed,
            "speakers": [
                {
                    "speaker": name,
                    "utterances": number,
                    "words": counts.length,
                    "substitutions": counts.substitutions,
                    "deletions": counts.deletions,
                    "insertions": counts.insertions,
                    "wer": or_none(counts.rate),
                }
                for name, (number, counts) in self.speakers().items()
            ],
            "top_substitutions": self.confusions("S", top),
            "top_deletions": [(ref, count) for ref, _, count in self.confusions("D", top)],
            "top_insertions": [(hyp, count) for _, hyp, count in self.confusions("I", top)],
        }

    def _arrays(self, unit: str) -> tuple[np.ndarray, np.ndarray]:
        """Errors and reference lengths (num_utterances,), unit "words" or "characters"."""
        counts = [getattr(utterance, unit) for utterance in self.utterances]
        return np.array([count.errors for count in counts]), np.array([count.length for count in counts])


def score(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    speakers: Mapping[str, str] | None = None,
    replications: int = 10000,
    seed: int = 0,
) -> WerResult:
    """Scores hypotheses against references.

    Args:
        refs: utterance id -> words, separated by white space.
        hyps: the same for the hypothesis; the same ids.
        speakers: utterance id -> speaker, for the table of speakers.
        replications: draws of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ScoreError: the ids differ, or no reference has a word.
    """
    if different := refs.keys() ^ hyps.keys():
        name = min(different)
        where = "reference" if name in hyps else "hypothesis"
        raise ScoreError(
            f"found utterance {name!r} without a {where}, expected the same utterances on both sides"
        )
    ref_texts = [" ".join(text.split()) for text in refs.values()]
    hyp_texts = [" ".join(hyps[name].split()) for name in refs]
    if not any(ref_texts):
        raise ScoreError(f"found no word in the {len(refs)} references, expected at least one")
    words = _alignments(jiwer.process_words, ref_texts, hyp_texts)
    characters = _alignments(jiwer.process_characters, ref_texts, hyp_texts)
    utterances = [
        Utterance(
            name,
            (speakers or {}).get(name),
            ref.split(),
            hyp.split(),
            ops,
            Counts.of(ops),
            Counts.of(char_ops),
        )
        for name, ref, hyp, ops, char_ops in zip(refs, ref_texts, hyp_texts, words, characters, strict=True)
    ]
    return WerResult(utterances, replications, seed)


def _alignments(process: Callable, refs: list[str], hyps: list[str]) -> list[str]:
    """The alignment of each pair of texts as a string of the letters C, S, D and I."""
    return [
        "".join(
            LETTERS[chunk.type]
            * max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
        )
        for chunks in process(refs, hyps).alignments
    ]


@dataclass(frozen=True)
class Comparison:
    """Whether a system differs from a baseline on the same utterances (Bisani and Ney 2004, section 4).

    Attributes:
        baseline: the result of the baseline.
        difference: WER of the system minus WER of the baseline; negative is better.
        low, high: its 95 % percentile interval, both systems scored on the same draws.
        probability_of_improvement: the share of draws on which the system has the lower WER.
        p_one_sided: how often the system is not better than the baseline.
        p_two_sided: the same for "the two differ".
    """

    baseline: WerResult
    difference: float
    low: float
    high: float
    probability_of_improvement: float
    p_one_sided: float
    p_two_sided: float

    def to_dict(self) -> dict[str, float | None]:
        """The keys that `--baseline` adds to `--json`."""
        low, high = self.baseline.wer_interval
        return {
            "baseline_wer": self.baseline.wer,
            "baseline_wer_low": or_none(low),
            "baseline_wer_high": or_none(high),
            "baseline_cer": self.baseline.cer,
            "wer_difference": self.difference,
            "wer_difference_low": or_none(self.low),
            "wer_difference_high": or_none(self.high),
            "probability_of_improvement": self.probability_of_improvement,
            "p_one_sided": self.p_one_sided,
            "p_two_sided": self.p_two_sided,
        }


def compare(result: WerResult, baseline: WerResult) -> Comparison:
    """The paired bootstrap over utterances of WER(result) - WER(baseline), of the same references.

    p values are (1 + number of draws) / (1 + number of all draws) (Davison and Hinkley 1997, eq. 4.11), so
    that they are never 0: with 10,000 draws the smallest is 0.0001. A draw on which the two are equal speaks
    against both.
    """
    if [(u.id, u.ref) for u in result.utterances] != [(u.id, u.ref) for u in baseline.utterances]:
        raise ScoreError("found different references for the system and the baseline, expected the same")
    errors, lengths = result._arrays("words")
    baseline_errors, _ = baseline._arrays("words")
    rows = np.stack([errors - baseline_errors, lengths], axis=1)
    sums = resampled_sums(rows, result.replications, result.seed)
    draws = ratio(sums[:, 0], sums[:, 1])
    draws = draws[np.isfinite(draws)]
    not_better = (1 + np.count_nonzero(draws >= 0)) / (1 + len(draws))
    not_worse = (1 + np.count_nonzero(draws <= 0)) / (1 + len(draws))
    low, high = interval(draws)
    return Comparison(
        baseline=baseline,
        difference=result.wer - baseline.wer,
        low=low,
        high=high,
        probability_of_improvement=np.count_nonzero(draws < 0) / max(1, len(draws)),
        p_one_sided=not_better,
        p_two_sided=min(1.0, 2 * min(not_better, not_worse)),
    )

"""Estimation of n-gram models: interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998, sections 3 and 4.1.6).

Counts are treated as KenLM and SRILM do: below the highest order an n-gram counts for the number of different words
before it, or, if it begins with <s>, for its occurrences; unigrams are interpolated with the uniform distribution over
all words but <s>.

The text and its counts lie in memory: 100 bytes a word and order, about.

Dimensions: W words, P places in the text, M n-grams of an order.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from toolkit.errors import UserError
from toolkit.text.backoff import ABSENT, BEGIN, END, UNKNOWN_WORDS, BackoffModel

SPECIAL = [UNKNOWN_WORDS[0], BEGIN, END]
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of an order whose counts of counts give none that make sense, as with little text; KenLM's."""


class Estimate(NamedTuple):
    """An n-gram model and how it came about."""

    model: BackoffModel
    discounts: list[tuple[float, float, float]]
    """Of each order, for n-grams that count once, twice, and more often."""
    fallbacks: list[int]
    """Orders with the discounts FALLBACK."""
    num_sentences: int
    num_words: int
    num_unknown: int
    """Words outside the vocabulary, which became <unk>."""


class _Level(NamedTuple):
    """The n-grams of one order, in the order of their keys."""

    contexts: np.ndarray
    """(M,) place of the first n - 1 words in the level below."""
    words: np.ndarray
    """(M,) last word."""
    suffixes: np.ndarray
    """(M,) place of the last n - 1 words in the level below."""
    occurrences: np.ndarray
    """(M,) in the text."""
    counts: np.ndarray
    """(M,) what smoothing counts."""


def estimate(
    sentences: Iterable[Sequence[str]],
    order: int,
    vocabulary: Iterable[str] | None = None,
    prune: Sequence[int] = (),
    source: str = "text",
) -> Estimate:
    """Estimates an n-gram model.

    Args:
        sentences: their words or tokens.
        order: length of the longest n-grams.
        vocabulary: all words that the model lists, even if the sentences lack them; others become <unk>. None: the
            words of the sentences, and <unk> with what smoothing leaves to a word never seen.
        prune: for each order the number of occurrences up to which n-grams are left out; the last number holds for
            all higher orders, the first must be 0, and they must not fall.
        source: where the sentences come from, for messages.

    Raises:
        UserError: there are no words, or <s> or </s> is among them.
        ValueError: for an impossible order, or such thresholds.
    """
    thresholds = [*prune, *[prune[-1] if prune else 0] * order][:order]
    if order < 1 or thresholds[0] != 0 or sorted(thresholds) != thresholds:
        raise ValueError(
            f"found order {order} and thresholds {list(prune)}, expected 0 first, and none to fall"
        )
    words = [*SPECIAL, *dict.fromkeys(word for word in vocabulary or () if word not in SPECIAL)]
    places, num_sentences, num_unknown = _places(sentences, words, vocabulary is None, source)
    if len(places) == 2 * num_sentences:
        raise UserError(f"{source}: found no words, expected some to learn from")
    levels = _levels(places, order, len(words))
    discounts, fallbacks = [], []
    for number, level in enumerate(levels, 1):
        found = _discounts(level.counts)
        discounts.append(found or FALLBACK)
        fallbacks += [] if found else [number]
    model = _smooth(levels, discounts, thresholds, words)
    return Estimate(model, discounts, fallbacks, num_sentences, len(places) - 2 * num_sentences, num_unknown)


def _places(
    sentences: Iterable[Sequence[str]], words: list[str], grow: bool, source: str
) -> tuple[np.ndarray, int, int]:
    """The text as ids (P,), each sentence between <s> and </s>; the number of sentences, and of words not listed."""
    ids = {word: index for index, word in enumerate(words)}
    unknown, begin, end = (ids[word] for word in SPECIAL)
    places, num_sentences, num_unknown = array("i"), 0, 0
    for sentence in sentences:
        num_sentences += 1
        places.append(begin)
        for word in sentence:
            index = ids.get(word, -1)
            if index in (begin, end):
                raise UserError(f"{source}: found {word} in sentence {num_sentences}, expected words only")
            if index < 0:
                if grow:
                    index = ids[word] = len(words)
                    words.append(word)
                else:
                    index, num_unknown = unknown, num_unknown + 1
            places.append(index)
        places.append(end)
    return np.asarray(places), num_sentences, num_unknown


def _levels(places: np.ndarray, order: int, num_words: int) -> list[_Level]:
    """Counts the n-grams of all orders."""
    begin, end = SPECIAL.index(BEGIN), SPECIAL.index(END)
    # Which n-gram begins at each place; -1 where it would reach over the end of the sentence.
    ranks = places.astype(np.int64)
    occurrences = np.bincount(places, minlength=num_words)
    everything, nothing = np.arange(num_words), np.zeros(num_words, dtype=np.int64)
    levels = [_Level(nothing, everything, nothing, occurrences, occurrences)]
    firsts = [everything == begin]
    for length in range(2, order + 1):
        fits = np.flatnonzero((ranks[: 1 - length] >= 0) & (places[length - 2 : -1] != end))
        keys, inverse, occurrences = np.unique(
            ranks[fits] * num_words + places[fits + length - 1], return_inverse=True, return_counts=True
        )
        suffixes, first = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
        suffixes[inverse], first[inverse] = ranks[fits + 1], places[fits] == begin
        ranks = np.full(len(places), -1)
        ranks[fits] = inverse
        levels.append(_Level(*np.divmod(keys, num_words), suffixes, occurrences, occurrences))
        firsts.append(first)
    for index, higher in enumerate(levels[1:]):
        before = np.bincount(higher.suffixes, minlength=len(levels[index].words))
        counts = np.where(firsts[index], levels[index].occurrences, before)
        levels[index] = levels[index]._replace(counts=counts)
    # Nothing is ever followed by the beginning of a sentence.
    levels[0] = levels[0]._replace(counts=np.where(firsts[0], 0, levels[0].counts))
    return levels


def _discounts(counts: np.ndarray) -> tuple[float, float, float] | None:
    """D1, D2 and D3+ (equation 26); None if they make no sense."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4))
    if not n1 or not n2 or not n3:
        return None
    share = n1 / (n1 + 2 * n2)
    found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    return found if all(0 < value <= limit for limit, value in enumerate(found, 1)) else None


def _smooth(
    levels: list[_Level], discounts: list[tuple[float, float, float]], thresholds: list[int], words: list[str]
) -> BackoffModel:
    """Probabilities and back-off weights of all n-grams that occur more often than their order's threshold."""
    begin, num_words = SPECIAL.index(BEGIN), len(words)
    # All words but <s> have the same probability before anything is counted.
    lower = np.full(1, 1 / (num_words - 1))
    sizes, keys, log_probs, backoffs = [], [], [], []
    # The node of each n-gram of the level below, root alone at first.
    nodes, offset = np.zeros(1, dtype=np.int64), 1
    for level, own, threshold in zip(levels, discounts, thresholds, strict=True):
        # Words of the vocabulary that the text lacks stay; what is rare and longer does not.
        kept = (level.occurrences > threshold) | (threshold == 0)
        left = np.where(kept, level.counts - np.array([0.0, *own])[np.minimum(level.counts, 3)], 0.0)
        totals = np.bincount(level.contexts, level.counts, minlength=len(lower))
        taken = np.bincount(level.contexts, level.counts - left, minlength=len(lower))
        rest = np.divide(taken, totals, out=np.ones(len(lower)), where=totals > 0)
        probs = left / totals[level.contexts] + rest[level.contexts] * lower[level.suffixes]
        if not sizes:
            probs[begin] = 0.0
        else:
            backoffs.append(_logarithms(rest)[nodes >= 0])
        sizes.append(int(kept.sum()))
        keys.append((nodes[level.contexts] * num_words + level.words)[kept])
        log_probs.append(_logarithms(probs)[kept])
        nodes = np.where(kept, offset + np.cumsum(kept) - 1, -1)
        offset += sizes[-1]
        lower = probs
    backoffs.append(np.zeros(sizes[-1], dtype=np.float32))
    return BackoffModel(
        words, sizes, np.concatenate(keys), np.concatenate(log_probs), np.concatenate(backoffs)
    )


def _logarithms(probs: np.ndarray) -> np.ndarray:
    """Decimal logarithms, ABSENT for 0."""
    return np.log10(probs, out=np.full(len(probs), ABSENT), where=probs > 0).astype(np.float32)

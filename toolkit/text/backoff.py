"""N-gram models with back-off, as arrays.

All n-grams of all orders lie in one sequence, ordered by their context and then by their last word. The n-gram at
position p is node p + 1 of a tree whose root, node 0, is the empty context; its key is `node of its context * W + last
word`. The keys ascend through the whole sequence, so that one binary search finds the continuation of any context.

Dimensions: W words, A n-grams of all orders.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from toolkit.errors import UserError

BEGIN, END = "<s>", "</s>"
UNKNOWN_WORDS = ("<unk>", "<UNK>")
ABSENT = -99.0
"""Decimal logarithm that stands for a probability of 0, as in SRILM."""
CHUNK = 100_000
"""Sentences that are predicted at once."""


@dataclass
class BackoffModel:
    """P(w | h) is what is listed for the n-gram hw, or else backoff(h) P(w | h without its first word)."""

    words: list[str]
    """Word of each id; their order is that of the unigrams."""
    sizes: list[int]
    """Number of n-grams of each order, from unigrams."""
    keys: np.ndarray
    """(A,) int64, ascending."""
    log_probs: np.ndarray
    """(A,) float32, decimal logarithms."""
    backoffs: np.ndarray
    """(A,) float32, decimal logarithms; 0 where nothing follows."""
    source: str = "n-gram model"
    """The file, for messages."""

    @property
    def order(self) -> int:
        """The longest n-grams' length."""
        return len(self.sizes)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word -> its id."""
        return {word: index for index, word in enumerate(self.words)}

    @property
    def unknown(self) -> int | None:
        """The id of the word that stands for all that are not listed, or None."""
        return next((self.ids[word] for word in UNKNOWN_WORDS if word in self.ids), None)

    def find(self, nodes: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The nodes of the n-grams that continue these contexts by these words, -1 where none is listed."""
        keys = nodes * len(self.words) + words
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where((self.keys[places] == keys) & (nodes >= 0) & (words >= 0), places + 1, -1)

    @cached_property
    def suffixes(self) -> np.ndarray:
        """(A + 1,) int64: for each node that of its longest listed suffix, less its first word; 0 for the root."""
        result = np.zeros(len(self.keys) + 1, dtype=np.int64)
        begin = self.sizes[0]
        for size in self.sizes[1:]:
            contexts, words = np.divmod(self.keys[begin : begin + size], len(self.words))
            nodes = np.full(size, -1)
            # Unigrams are all listed, so the empty context ends the search.
            while (missing := nodes < 0).any():
                contexts[missing] = result[contexts[missing]]
                nodes[missing] = self.find(contexts[missing], words[missing])
            result[begin + 1 : begin + size + 1] = nodes
            begin += size
        return result

    @cached_property
    def states(self) -> np.ndarray:
        """(A + 1,) int64: for each node its longest suffix, itself included, that a next word's probability depends on.

        These are the nodes with continuations or with a back-off weight; all others give the same as their suffix.
        """
        matters = np.zeros(len(self.keys) + 1, dtype=bool)
        matters[self.keys // len(self.words)] = True
        matters[1:] |= self.backoffs != 0
        result = np.arange(len(matters))
        suffixes = self.suffixes
        while (passing := ~matters[result] & (result > 0)).any():
            result[passing] = suffixes[result[passing]]
        return result

    def sentence_log_probs(self, sentences: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Decimal logarithms of the probabilities of all words of the sentences, and of the ends of these.

        Returns:
            log_probs: (tokens,) float64, those of a sentence one after another, its end last.
            known: (tokens,) whether the word is listed; others have the probability of <unk>, or of 0 without it.
        """
        rows = [BEGIN]
        for sentence in sentences:
            rows += [*sentence, END, BEGIN]
        begin, unknown = self.ids[BEGIN], -1 if self.unknown is None else self.unknown
        words = np.asarray([self.ids.get(word, -2) for word in rows[:-1]], dtype=np.int64)
        known, starts = words != -2, words == begin
        words[~known] = unknown
        places = np.arange(len(words))
        age = places - np.maximum.accumulate(np.where(starts, places, 0))
        total, listed = np.zeros(len(words)), np.full(len(words), -1)
        # The longest n-gram counts that ends here, and the back-off weights of all contexts that are longer still.
        for length in range(self.order):
            context = np.where(age >= length, self._nodes(words, length), -1)
            node = self.find(context, words)
            backoff = np.where(context > 0, self.backoffs[np.maximum(context, 1) - 1], 0.0)
            total = np.where(node > 0, 0.0, total + backoff)
            listed = np.where(node > 0, node, listed)
        total = np.where(listed > 0, total + self.log_probs[np.maximum(listed, 1) - 1], ABSENT)
        return total[~starts], known[~starts]

    def _nodes(self, words: np.ndarray, length: int) -> np.ndarray:
        """(tokens,) the node of the `length` words before each; rubbish where these reach over the first one."""
        node = np.zeros(len(words), dtype=np.int64)
        for back in range(length, 0, -1):
            node = self.find(node, np.roll(words, back))
        return node


class Evaluation(NamedTuple):
    """How well a model predicts a text."""

    num_sentences: int
    num_words: int
    """Without the ends of sentences."""
    num_unknown: int
    """Words that the model does not list; they count for nothing below."""
    log_prob: float
    """Decimal logarithm of the probability of all words that are listed, and of the ends of sentences."""

    @property
    def perplexity(self) -> float:
        """10 to the power of the negative mean of the logarithms, those of the ends of sentences included."""
        return math.pow(10.0, -self.log_prob / (self.num_words - self.num_unknown + self.num_sentences))


def evaluate(model: BackoffModel, sentences: Iterable[Sequence[str]], source: str = "text") -> Evaluation:
    """Predicts the words of sentences, and where these end; `source` names their origin in errors.

    Raises:
        UserError: there are none.
    """
    counts, log_prob = np.zeros(3, dtype=np.int64), 0.0
    sentences = iter(sentences)
    while block := list(islice(sentences, CHUNK)):
        log_probs, known = model.sentence_log_probs(block)
        counts += len(block), len(known) - len(block), int(np.count_nonzero(~known))
        log_prob += float(log_probs[known].sum())
    if not counts[0]:
        raise UserError(f"{source}: found no sentences, expected some to predict")
    return Evaluation(*counts.tolist(), log_prob)

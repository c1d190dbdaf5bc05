"""Restricts a search to words: a tree of their spellings, and an n-gram model asked at the end of each.

A hypothesis follows the tree token by token. Where a word ends it may be taken, which leads back to the root, or left
open, if longer words go on from there.

Dimensions: P spellings, V symbols, S nodes, N hypotheses, C tokens tried, A ways to go on with a token: within the
    word (way 0), or to the end of one of the words that are spelled like this (the word's id, from 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.ngram import NgramScorer
from toolkit.decode.scorer import State
from toolkit.decode.vocabulary import Vocabulary, load_vocabulary
from toolkit.text.arpa import read_arpa
from toolkit.text.backoff import BackoffModel
from toolkit.text.tokenizer import Tokenizer

NEVER = float("-inf")


@dataclass
class WordsConfig:
    """Words that a search keeps to; none if neither a lexicon nor an n-gram model is named."""

    lexicon: str | None = None
    """Words and their tokens, one spelling a line; null for the words of `ngram` as the tokenizer spells them."""
    ngram: str | None = None
    """N-gram model over words, an ARPA file."""
    scale: float = 0.5
    """Of its log-probabilities."""
    bonus: float = 0.0
    """Added to the score for each word."""
    look_ahead: bool = True
    """Within a word, count the unigram probability of the likeliest word that can still come of it."""

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ValueError(f"scale must not be negative, got {self.scale}")


class WordSearch:
    """Follows the words of many hypotheses at once.

    Args:
        vocabulary: the words.
        num_symbols: V.
        device: of the search.
        model: n-grams over the words; words that it does not know even as <unk> are left out.
        config: how words are scored.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        num_symbols: int,
        device: torch.device | str,
        model: BackoffModel | None = None,
        config: WordsConfig | None = None,
    ) -> None:
        self.vocabulary, self.num_symbols, self.device = vocabulary, num_symbols, device
        self.config = config or WordsConfig()
        self.ngram = NgramScorer(model, vocabulary.words, device) if model else None
        known = self.ngram.known.tolist() if self.ngram else [True] * len(vocabulary.words)
        entries = sorted({(tokens, word) for word, tokens in vocabulary.spellings if known[word]})
        tree = _Tree([tokens for tokens, _ in entries], num_symbols, vocabulary.separator)
        owners = np.array([word for _, word in entries])
        ahead = np.zeros(tree.size)
        if self.ngram and self.config.look_ahead:
            ahead = self.config.scale * tree.best_below(self._unigrams()[owners])
        order = np.argsort(tree.ends, kind="stable")
        counts = np.bincount(tree.ends, minlength=tree.size)
        self.most = int(counts.max())
        self.start_node = tree.start
        self.keys = torch.from_numpy(tree.keys).to(device)
        self.children = torch.from_numpy(tree.children).to(device)
        self.open = torch.from_numpy(np.isin(np.arange(tree.size), tree.keys // num_symbols)).to(device)
        self.counts = torch.from_numpy(counts).to(device)
        self.firsts = torch.from_numpy(np.cumsum(counts) - counts).to(device)
        self.owners = torch.from_numpy(np.append(owners[order], [0] * self.most)).to(device)
        self.ahead = torch.from_numpy(ahead).float().to(device)

    def _unigrams(self) -> np.ndarray:
        """(words,) log-probabilities without context."""
        everything = torch.arange(len(self.vocabulary.words), device=self.device)[None]
        # The root of the model's tree is the empty context.
        context = (torch.zeros(1, dtype=torch.long, device=self.device),)
        return self.ngram.score_some(context, everything)[0].cpu().numpy()

    def start(self, count: int) -> State:
        """`count` hypotheses without words: node of the tree (N,), and the n-gram model's."""
        nodes = torch.full((count,), self.start_node, device=self.device)
        return nodes, *(self.ngram.start(count) if self.ngram else ())

    def extensions(self, state: State, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The ways to go on with tokens and what each adds to the score.

        Args:
            state: of N hypotheses.
            tokens: (N, C).

        Returns:
            ways (N, C, A) int64 and scores (N, C, A) float32, -inf for ways that do not exist.
        """
        nodes, *before = state
        children = self._child(nodes[:, None], tokens)
        # What is looked up for node -1, which is none, is masked below.
        places = torch.arange(self.most, device=tokens.device)
        words = self.owners[self.firsts[children][..., None] + places]
        exists = (children >= 0)[..., None] & (places < self.counts[children][..., None])
        scores = torch.zeros(words.shape, device=tokens.device)
        if self.ngram:
            scores = self.config.scale * self.ngram.score_some(before, words.flatten(1)).view_as(scores)
        scores = (scores + self.config.bonus).masked_fill(~exists, NEVER)
        goes_on = torch.where((children >= 0) & self.open[children], self.ahead[children], NEVER)
        ways = torch.cat([torch.zeros_like(words[..., :1]), words], dim=-1)
        scores = torch.cat([goes_on[..., None], scores], dim=-1)
        return ways, scores - self.ahead[nodes][:, None, None]

    def advance(self, state: State, tokens: Tensor, ways: Tensor) -> State:
        """The state after tokens (N,), 0 for none, meant in these ways (N,)."""
        nodes, *before = state
        child = self._child(nodes, tokens).clamp(min=0)
        nodes = torch.where(ways > 0, 0, torch.where(tokens > 0, child, nodes))
        if self.ngram:
            before = self.ngram.advance(before, ways)
        return nodes, *before

    def final(self, state: State) -> Tensor:
        """What the end of the utterance adds, (N,): -inf within a word."""
        nodes, *before = state
        complete = (nodes == 0) | (nodes == self.start_node)
        scores = torch.zeros(nodes.shape, device=nodes.device)
        if self.ngram:
            scores = self.config.scale * self.ngram.final(before)
        return scores.masked_fill(~complete, NEVER)

    def _child(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Where tokens lead from nodes, -1 for nowhere."""
        keys = nodes * self.num_symbols + tokens
        places = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[places] == keys, self.children[places], -1)


def build_words(config: WordsConfig, tokenizer: Tokenizer, device: torch.device | str) -> WordSearch | None:
    """Reads what is named; None if nothing is.

    Raises:
        UserError: a file is missing or malformed, or is for other tokens or words.
    """
    if config.lexicon is None and config.ngram is None:
        return None
    model = read_arpa(config.ngram) if config.ngram is not None else None
    vocabulary = load_vocabulary(config.lexicon, model, tokenizer)
    return WordSearch(vocabulary, len(tokenizer.tokens), device, model, config)


class _Tree:
    """The spellings as a tree. Node 0 is the root; the arcs ascend by `node * V + token`.

    Attributes:
        keys: (arcs,) int64.
        children: (arcs,) where they lead.
        ends: (P,) the node at which each spelling ends.
        start: the node of an utterance without tokens. Where there is a separator it is a node of its own, from which
            the first word's tokens lead into the tree with the separator and without it.
        size: S.
    """

    def __init__(self, spellings: Sequence[tuple[int, ...]], num_symbols: int, separator: int | None) -> None:
        lengths = np.array([len(tokens) for tokens in spellings])
        padded = np.zeros((len(spellings), lengths.max()), dtype=np.int64)
        padded[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(spellings)
        self.ends = np.zeros(len(spellings), dtype=np.int64)
        self.levels = [1]
        keys = []
        for position in range(lengths.max()):
            here = lengths > position
            tokens = padded[here, position]
            level, places = np.unique(self.ends[here] * num_symbols + tokens, return_inverse=True)
            self.ends[here] = self.levels[-1] + places
            self.levels.append(self.levels[-1] + len(level))
            keys.append(level)
        self.keys, self.start, self.size = np.concatenate(keys), 0, self.levels[-1]
        self.children = np.arange(1, self.size)
        self.parents = self.keys // num_symbols
        if separator is not None:
            self._add_start(num_symbols, separator)

    def _add_start(self, num_symbols: int, separator: int) -> None:
        arcs = np.flatnonzero(self.parents <= 1)
        tokens = self.keys[arcs] % num_symbols
        self.start, self.size = self.size, self.size + 1
        order = np.argsort(tokens)
        self.keys = np.concatenate([self.keys, self.start * num_symbols + tokens[order]])
        self.children = np.concatenate([self.children, self.children[arcs[order]]])

    def best_below(self, scores: np.ndarray) -> np.ndarray:
        """(S,) the highest of the scores (P,) of the spellings that each node leads to; 0 for root and start."""
        best = np.full(self.size, NEVER)
        np.maximum.at(best, self.ends, scores)
        for begin, end in reversed(list(pairwise(self.levels))):
            np.maximum.at(best, self.parents[begin - 1 : end - 1], best[begin:end])
        best[[0, self.start]] = 0.0
        return best

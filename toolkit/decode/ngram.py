"""An n-gram model as a scorer of a search: over tokens for shallow fusion, over words for a search with a lexicon.

Dimensions: N hypotheses, V symbols, W words of the model, K candidates of each hypothesis.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.scorer import State, spread
from toolkit.errors import UserError
from toolkit.text.backoff import ABSENT, BEGIN, END, BackoffModel


class NgramScorer:
    """The probabilities of a back-off model, for all hypotheses at once; a hypothesis is a node of the model.

    A symbol that the model does not list counts as its <unk>; if it has none, the symbol's probability is 10^-99, and
    what was before it is forgotten.

    Args:
        model: of `read_arpa`, whose words are the symbols.
        symbols: symbol of each id; 0 is none (the blank, or the empty word).
        device: of all tensors.

    Raises:
        UserError: most of the smaller of the two vocabularies is not in the other: they do not belong together.
    """

    def __init__(
        self, model: BackoffModel, symbols: Sequence[str], device: str | torch.device = "cpu"
    ) -> None:
        words = np.array([model.ids.get(symbol, -1) for symbol in symbols], dtype=np.int64)
        _check_overlap(model, symbols, words)
        if model.unknown is not None:
            words[words < 0] = model.unknown
        self.device, self.order, self.num_words = torch.device(device), model.order, len(model.words)
        self.known = torch.from_numpy(words >= 0).to(device)
        self.words = torch.from_numpy(np.maximum(words, 0)).to(device)
        self.keys = torch.from_numpy(model.keys).to(device)
        scale = np.float32(math.log(10))
        self.log_probs = torch.from_numpy(model.log_probs * scale).to(device)
        # Of each node, the root included.
        self.backoffs = torch.from_numpy(np.append(np.float32(0), model.backoffs * scale)).to(device)
        self.suffixes = torch.from_numpy(model.suffixes).to(device)
        self.states = torch.from_numpy(model.states).to(device)
        # Of each node but those of the highest order: where its continuations are. Unigrams need no looking up.
        bounds = np.arange(2 + sum(model.sizes[:-1])) * self.num_words
        firsts = torch.from_numpy(np.searchsorted(model.keys, bounds)).to(device)
        self.firsts, self.ends = firsts[:-1].clone(), firsts[1:]
        self.firsts[0] = self.ends[0]
        self.begin, self.end = int(model.states[model.ids[BEGIN] + 1]), model.ids[END]
        self.absent = ABSENT * math.log(10)

    def start(self, count: int) -> State:
        """The beginning of a sentence."""
        return (torch.full((count,), self.begin, dtype=torch.int64, device=self.device),)

    def scores(self, state: State) -> Tensor:
        """Log-probability of each symbol after each hypothesis, (N, V); 0 for symbol 0."""
        if self.device.type != "cpu":
            # As many searches as scores, but nothing to wait for.
            every = torch.arange(len(self.words), device=self.device)
            return self.score_some(state, every.expand(len(state[0]), -1))
        scores = self._all_words(state[0])[:, self.words]
        scores.masked_fill_(~self.known, self.absent)
        scores[:, 0] = 0.0
        return scores

    def score_some(self, state: State, symbols: Tensor) -> Tensor:
        """Log-probabilities of some symbols, (N, K) ids to (N, K) scores, for vocabularies of many words."""
        scores, _ = self._look_up(state[0][:, None], self.words[symbols])
        scores = torch.where(self.known[symbols], scores, self.absent)
        return torch.where(symbols == 0, 0.0, scores)

    def advance(self, state: State, tokens: Tensor) -> State:
        """The nodes after one more symbol for each hypothesis, (N,); 0 leaves a row as it is."""
        (node,) = state
        _, found = self._look_up(node, self.words[tokens])
        following = torch.where(self.known[tokens], self.states[found], 0)
        return (torch.where(tokens == 0, node, following),)

    def final(self, state: State) -> Tensor:
        """Log-probability of the end of the sentence, (N,)."""
        return self._look_up(state[0], torch.full_like(state[0], self.end))[0]

    def _all_words(self, nodes: Tensor) -> Tensor:
        """Log-probabilities of all words of the model after nodes (N,), (N, W).

        What is listed of a longer context takes the place of what the shorter ones say.
        """
        scores = self.log_probs[: self.num_words].repeat(len(nodes), 1)
        contexts = [nodes]
        for _ in range(self.order - 2):
            contexts.append(self.suffixes[contexts[-1]])
        for context in reversed(contexts):
            scores += self.backoffs[context][:, None]
            rows, places = spread(self.firsts[context], self.ends[context])
            words = self.keys[places] - context[rows] * self.num_words
            scores[rows, words] = self.log_probs[places]
        return scores

    def _look_up(self, nodes: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of words after nodes, and the nodes of the longest n-grams that are listed."""
        nodes, words = torch.broadcast_tensors(nodes, words)
        found, backoff = torch.zeros_like(nodes), torch.zeros(nodes.shape, device=self.device)
        # A state has at most order - 1 words, so that the last round is that of the unigrams, which are all listed.
        for _ in range(self.order - 1):
            keys = nodes * self.num_words + words
            places = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
            listed = (self.keys[places] == keys) & (found == 0)
            found = torch.where(listed, places + 1, found)
            backoff = torch.where(found == 0, backoff + self.backoffs[nodes], backoff)
            nodes = self.suffixes[nodes]
        found = torch.where(found == 0, words + 1, found)
        return backoff + self.log_probs[found - 1], found


def _check_overlap(model: BackoffModel, symbols: Sequence[str], words: np.ndarray) -> None:
    """Keeps models of other symbols out, such as those of words in upper case."""
    special = {BEGIN, END}
    common = len({word for word in words[1:].tolist() if word >= 0})
    smaller = min(len(symbols) - 1, len(model.words) - len(special))
    # Of a model without words, which shares none with anything, the smaller vocabulary is empty.
    if not common or 2 * common < smaller:
        strange = [symbol for symbol, word in zip(symbols[1:], words[1:], strict=True) if word < 0]
        names = ", ".join(map(repr, strange[:3]))
        raise UserError(
            f"{model.source}: found {common} of the {len(symbols) - 1} symbols among its words, not {names}; "
            "expected an n-gram model over the same symbols"
        )

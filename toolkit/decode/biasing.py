"""Contextual biasing: phrases that are expected, such as names, are favoured while a search goes on.

The phrases form a tree of tokens with the failure links of Aho & Corasick (1975). A token that goes on with a phrase
adds a bonus; when the phrase does not go on, all that was added for it is taken back, less what its longest suffix
that begins a phrase is worth. A phrase that was found whole keeps its bonus, and the matching starts anew; this is how
icefall's searches use their context graphs.

Dimensions: N hypotheses, V symbols, S states (nodes of the tree, 0 its root), E transitions.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.scorer import State, spread
from toolkit.text.phrases import Phrase


class BiasingScorer:
    """The bonus of phrases; a hypothesis is the state of its longest suffix that begins a phrase.

    Where phrases begin alike, a token that they share adds the greatest of their scores.

    Args:
        phrases: their tokens, none of them 0, and what each token adds.
        num_symbols: V.
        device: of all tensors.

    Raises:
        ValueError: there is no phrase, or one without tokens or with a token that is none of the symbols.
    """

    def __init__(
        self, phrases: Sequence[Phrase], num_symbols: int, device: str | torch.device = "cpu"
    ) -> None:
        if not phrases or not all(
            phrase.tokens and 0 < min(phrase.tokens) <= max(phrase.tokens) < num_symbols for phrase in phrases
        ):
            raise ValueError(f"expected phrases of tokens from 1 to {num_symbols - 1}")
        tree = _Tree(phrases)
        self.device, self.num_symbols = torch.device(device), num_symbols
        # Few tokens lead from a state to another than they do from the root: only these are listed.
        keys, targets = tree.transitions(num_symbols)
        self.keys, self.targets = torch.from_numpy(keys).to(device), torch.from_numpy(targets).to(device)
        bounds = np.arange(len(tree.children) + 1) * num_symbols
        self.firsts = torch.from_numpy(np.searchsorted(keys, bounds)).to(device)
        root = np.zeros(num_symbols, dtype=np.int64)
        root[list(tree.children[0])] = list(tree.children[0].values())
        self.root = torch.from_numpy(root).to(device)
        self.worth = torch.tensor(tree.worth, device=device)
        # What reaching a state leaves: a whole phrase begins anew with the worth of the longest that ends there.
        self.gains = torch.tensor(
            [tree.worth[end or node] for node, end in enumerate(tree.ends)], device=device
        )
        self.landings = torch.tensor(
            [0 if end else node for node, end in enumerate(tree.ends)], device=device
        )

    def start(self, count: int) -> State:
        """No phrase has begun."""
        return (torch.zeros(count, dtype=torch.int64, device=self.device),)

    def scores(self, state: State) -> Tensor:
        """The bonus of each symbol, or what it takes back, (N, V); 0 for symbol 0."""
        (node,) = state
        if self.device.type == "cpu":
            scores = self.gains[self.root] - self.worth[node][:, None]
            rows, places = spread(self.firsts[node], self.firsts[node + 1])
            symbols = self.keys[places] - node[rows] * self.num_symbols
            scores[rows, symbols] = self.gains[self.targets[places]] - self.worth[node][rows]
        else:
            # More to look up, but nothing to wait for.
            targets = self._targets(node[:, None], torch.arange(self.num_symbols, device=self.device))
            scores = self.gains[targets] - self.worth[node][:, None]
        scores[:, 0] = 0.0
        return scores

    def advance(self, state: State, tokens: Tensor) -> State:
        """The states after one more token for each hypothesis, (N,); 0 leaves a row as it is."""
        (node,) = state
        return (torch.where(tokens == 0, node, self.landings[self._targets(node, tokens)]),)

    def final(self, state: State) -> Tensor:
        """Takes back the bonus of a phrase that is not complete, (N,)."""
        return -self.worth[state[0]]

    def _targets(self, nodes: Tensor, symbols: Tensor) -> Tensor:
        """The nodes that symbols lead to, those of whole phrases included."""
        keys = nodes * self.num_symbols + symbols
        places = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[places] == keys, self.targets[places], self.root[symbols])


class _Tree:
    """The phrases as a tree with failure links."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self.children: list[dict[int, int]] = [{}]
        scores, whole = [0.0], {0: False}
        for phrase in phrases:
            node = 0
            for token in phrase.tokens:
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    scores.append(phrase.score)
                node = self.children[node][token]
                scores[node] = max(scores[node], phrase.score)
            whole[node] = True
        self.worth = list(scores)
        """Sum of the scores from the root to each node."""
        self.failures = [0] * len(scores)
        """The node of the longest proper suffix that begins a phrase."""
        self.ends = [0] * len(scores)
        """The node of the longest suffix that is a whole phrase, the node itself included; 0 for none."""
        self.order: list[int] = []
        """Nodes but the root, short ones first."""
        queue = deque([0])
        while queue:
            node = queue.popleft()
            for token, child in self.children[node].items():
                self.worth[child] = self.worth[node] + scores[child]
                if node:
                    self.failures[child] = self._after(self.failures[node], token)
                self.ends[child] = child if whole.get(child) else self.ends[self.failures[child]]
                self.order.append(child)
                queue.append(child)

    def _after(self, node: int, token: int) -> int:
        while node and token not in self.children[node]:
            node = self.failures[node]
        return self.children[node].get(token, 0)

    def transitions(self, num_symbols: int) -> tuple[np.ndarray, np.ndarray]:
        """Ascending keys `node * V + token` (E,) and targets (E,), where those of the root are others."""
        found: list[dict[int, int]] = [{} for _ in self.children]
        for node in self.order:
            found[node] = {**found[self.failures[node]], **self.children[node]}
        pairs = [
            (node * num_symbols + token, to) for node, row in enumerate(found) for token, to in row.items()
        ]
        # One that no state and token have keeps the list from being empty.
        keys, targets = np.array(sorted([*pairs, (len(found) * num_symbols, 0)]), dtype=np.int64).T
        return np.ascontiguousarray(keys), np.ascontiguousarray(targets)

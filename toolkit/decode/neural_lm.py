"""A neural language model as a scorer of a search.

Dimensions: N hypotheses, V symbols (0 is the blank of the search, and the end of a sentence of the language model).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.decode.scorer import State, select
from toolkit.errors import UserError
from toolkit.models.lm import LanguageModel
from toolkit.nn.eager import eager_on_cpu


class NeuralScorer:
    """The probabilities of a language model, for all hypotheses at once.

    The state of a hypothesis is the log-probabilities of what comes next, (N, V), and what the model keeps. So the
    model works once a token: on a CPU for those hypotheses alone that have one, on a GPU, which would have to be
    waited for, for all of them.

    Args:
        model: in evaluation; its device is the scorer's.
        tokens: the symbols of its model directory, by id.
        recogniser_tokens: those of the recogniser.
        source: what is named in messages, such as the model directory.

    Raises:
        UserError: the symbols are not the same.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Sequence[str],
        recogniser_tokens: Sequence[str],
        source: str = "language model",
    ) -> None:
        check_tokens(tokens, recogniser_tokens, source)
        self.model = model
        self.device = model.output.weight.device

    @torch.no_grad()
    def start(self, count: int) -> State:
        """The beginning of a sentence."""
        log_probs, state = self.model.start(count, self.device)
        return log_probs, *state

    def scores(self, state: State) -> Tensor:
        """Log-probability of each symbol after each hypothesis, (N, V); 0 for symbol 0."""
        return pad(state[0][:, 1:], (1, 0))

    @torch.no_grad()
    def advance(self, state: State, tokens: Tensor) -> State:
        """The states after one more token for each hypothesis, (N,); 0 leaves a row as it is."""
        if not eager_on_cpu(tokens):
            return self._step(state, tokens)
        rows = tokens.nonzero()[:, 0]
        if len(rows) in (0, len(tokens)):
            return self._step(state, tokens) if len(rows) else state
        changed = self._step(select(state, rows), tokens[rows])
        return tuple(_replaced(old, rows, new) for old, new in zip(state, changed, strict=True))

    def final(self, state: State) -> Tensor:
        """Log-probability of the end of the sentence, (N,)."""
        return state[0][:, 0]

    def _step(self, state: State, tokens: Tensor) -> State:
        log_probs, kept = self.model.step(tokens, state[1:])
        return log_probs, *kept


def check_tokens(tokens: Sequence[str], recogniser_tokens: Sequence[str], source: str) -> None:
    """Compares the symbols of a language model with those of a recogniser.

    Raises:
        UserError: they are not the same.
    """
    if len(tokens) != len(recogniser_tokens):
        found, expected = f"{len(tokens)} tokens", f"the {len(recogniser_tokens)} tokens"
    else:
        pairs = enumerate(zip(tokens, recogniser_tokens, strict=True))
        index = next((index for index, (one, other) in pairs if one != other), None)
        if index is None:
            return
        found, expected = f"token {index} to be {tokens[index]!r}", repr(recogniser_tokens[index])
    raise UserError(
        f"{source}: found {found}, expected {expected} of the recogniser; train it with tokenizer.folder: the "
        "recogniser's model directory"
    )


def _replaced(old: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """`old` (N, ...) with other rows; where one of them is larger in some dimension, the rest is 0."""
    if old.shape[1:] != new.shape[1:]:
        shape = [len(old), *map(max, old.shape[1:], new.shape[1:])]
        old, smaller = old.new_zeros(shape), old
        old[tuple(map(slice, smaller.shape))] = smaller
        result = old
    else:
        result = old.clone()
    result[(rows, *map(slice, new.shape[1:]))] = new
    return result

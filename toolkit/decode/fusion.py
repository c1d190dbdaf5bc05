"""What a configuration fuses into a search: n-gram and neural language models, and phrases that are expected.

The internal language model that a transducer learned from its transcripts may be taken away again by one that was
estimated on the same transcripts (density ratio, arXiv 2002.11268; of low order: LODR, arXiv 2203.16776).

Dimensions: N hypotheses, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit import checkpoint, config
from toolkit.config import choice
from toolkit.decode.biasing import BiasingScorer
from toolkit.decode.neural_lm import NeuralScorer
from toolkit.decode.ngram import NgramScorer
from toolkit.decode.scorer import Scorer, State, Sum
from toolkit.errors import UserError
from toolkit.models.lm import NETWORKS, LanguageModel
from toolkit.text.arpa import read_arpa
from toolkit.text.phrases import read_phrases
from toolkit.text.tokenizer import Tokenizer, load_tokenizer

LEAST_TAKEN_AWAY = -15.0
"""Log-probability below which a model that is taken away counts no further: what it never saw must not be a gain."""


@dataclass
class FusionConfig:
    """What is added to the scores of the model; all of it is over the tokens of the model."""

    ngram: str | None = None
    """N-gram model, an ARPA file over tokens."""
    ngram_scale: float = 0.3
    """Of its log-probabilities."""
    lm: str | None = None
    """Neural language model, a model directory."""
    lm_scale: float = 0.3
    """Of its log-probabilities."""
    biasing: str | None = None
    """Phrases that are expected, one a line; after a tab its own score, if it has one."""
    biasing_score: float = 1.5
    """What each token of a phrase adds."""
    lodr: str | None = None
    """N-gram model of the training transcripts, an ARPA file over tokens, which is taken away."""
    lodr_scale: float = 0.2
    """Of its log-probabilities, which are subtracted."""

    def __post_init__(self) -> None:
        for name in ("ngram_scale", "lm_scale", "lodr_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def build_scorer(
    settings: FusionConfig, tokenizer: Tokenizer, device: torch.device | str = "cpu"
) -> Scorer | None:
    """Reads all that is named.

    Returns:
        The scaled sum; None if nothing is named.

    Raises:
        UserError: a file or folder is missing or damaged, or is for other tokens.
    """
    parts: list[tuple[Scorer, float]] = []
    if settings.ngram is not None:
        parts.append((_ngram(settings.ngram, tokenizer, device), settings.ngram_scale))
    if settings.lm is not None:
        parts.append((load_neural_scorer(settings.lm, tokenizer.tokens, device), settings.lm_scale))
    if settings.biasing is not None:
        phrases = read_phrases(settings.biasing, tokenizer, settings.biasing_score)
        parts.append((BiasingScorer(phrases, len(tokenizer.tokens), device), 1.0))
    if settings.lodr is not None:
        taken_away = Floored(_ngram(settings.lodr, tokenizer, device), LEAST_TAKEN_AWAY)
        parts.append((taken_away, -settings.lodr_scale))
    return Sum(parts) if parts else None


def load_neural_scorer(
    folder: str | Path, tokens: Sequence[str], device: torch.device | str = "cpu"
) -> NeuralScorer:
    """The language model of a model directory as a scorer.

    Args:
        folder: the model directory.
        tokens: of the recogniser.
        device: of the model.

    Raises:
        UserError: not the directory of a language model, or it is one over other tokens.
    """
    folder = Path(folder)
    path = folder / "config.yaml"
    raw = config.read_yaml(path)
    if raw.get("task") != "lm":
        raise UserError(f"{path}: task: found {raw.get('task')!r}, expected 'lm'")
    network = config.build(_Network, {"network": raw.get("network") or {}}, str(path)).network
    known = load_tokenizer(folder).tokens
    model = LanguageModel(network, len(known))
    weights = folder / "model.safetensors"
    checkpoint.load_weights(model, checkpoint.load(weights)[0], weights)
    return NeuralScorer(model.to(device).eval(), known, tokens, str(folder))


class Floored:
    """A scorer whose scores are at least so many.

    Args:
        scorer: the other one.
        least: log-probability.
    """

    def __init__(self, scorer: Scorer, least: float) -> None:
        self.scorer, self.least = scorer, least
        self.start, self.advance = scorer.start, scorer.advance

    def scores(self, state: State) -> Tensor:
        """(N, V)."""
        return self.scorer.scores(state).clamp(min=self.least)

    def final(self, state: State) -> Tensor:
        """(N,)."""
        return self.scorer.final(state).clamp(min=self.least)


@dataclass
class _Network:
    """What of a language model's configuration is needed to build it."""

    network: Any = choice(NETWORKS, "lstm")
    """What looks at the symbols so far."""


def _ngram(path: str, tokenizer: Tokenizer, device: torch.device | str) -> NgramScorer:
    return NgramScorer(read_arpa(path), tokenizer.tokens, device)

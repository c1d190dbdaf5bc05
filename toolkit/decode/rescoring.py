"""Rescoring of n-best lists by what looks at whole hypotheses: an attention decoder, language models.

Dimensions: B utterances, T frames, D encoder width, N hypotheses of all utterances, U symbols, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.decode.ctc_beam import CtcBeam
from toolkit.decode.fusion import FusionConfig, build_scorer
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.modified_beam import ModifiedBeam, ModifiedBeamConfig
from toolkit.decode.scorer import Scorer
from toolkit.errors import UserError
from toolkit.models.asr import AsrModel
from toolkit.models.attention_decoder import AttentionDecoder
from toolkit.nn.masks import valid_mask
from toolkit.text.tokenizer import Tokenizer

FIRST = {"ctc_beam": CtcBeam, "modified_beam": ModifiedBeam}
"""Searches that give n-best lists."""
ROWS_AT_ONCE = 64
"""Hypotheses that an attention decoder scores together: each of them needs all frames."""


@dataclass
class RescoringConfig:
    """A search, and a second look at all that it found."""

    name: str = "rescoring"
    """Which search this is."""
    first: Any = field(
        default_factory=lambda: ModifiedBeamConfig(beam=8, nbest=8),
        metadata={"registry": FIRST, "default": "modified_beam"},
    )
    """The search whose n-best list is rescored."""
    first_scale: float = 1.0
    """Of the score that the first search gave."""
    attention_scale: float = 0.0
    """Of the attention decoder's log-probability; 0 to do without."""
    length_bonus: float = 0.0
    """Added to the score for each symbol."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """Language models and phrases of the second look."""

    def __post_init__(self) -> None:
        for name in ("first_scale", "attention_scale"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.first.nbest < 2:
            raise ValueError(
                f"first.nbest must be at least 2, got {self.first.nbest}: there is nothing to choose"
            )


class Rescoring:
    """The n-best list of another search, by the scaled sum of its scores and others.

    Raises:
        UserError: a head of the model is missing, or what is to be fused in is missing or damaged.
    """

    Config = RescoringConfig

    def __init__(
        self, config: RescoringConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        if config.attention_scale and model.attention is None:
            raise UserError(
                f"attention_scale: found {config.attention_scale:g}, but the model has no attention decoder; expected 0"
            )
        self.config, self.attention = config, model.attention
        self.first = FIRST[config.first.name](config.first, model, tokenizer, device)
        self.scorer = build_scorer(config.fusion, tokenizer, device)

    @torch.no_grad()
    def __call__(self, frames: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """(B, T, D) frames of the encoder and (B,) how many are valid, to B n-best lists."""
        lists = self.first(frames, lengths)
        if not lists:
            return []
        config, device = self.config, frames.device
        flat = [hypothesis for nbest in lists for hypothesis in nbest]
        tokens, counts = padded_tokens(flat, device)
        rows = torch.repeat_interleave(torch.tensor([len(nbest) for nbest in lists])).to(device)
        scores = config.first_scale * torch.tensor([hypothesis.score for hypothesis in flat], device=device)
        scores += config.length_bonus * counts
        if config.attention_scale:
            heard = frames, lengths.to(device), rows
            scores += config.attention_scale * attention_scores(self.attention, *heard, tokens, counts)
        if self.scorer:
            scores += sequence_scores(self.scorer, tokens)
        rescored = iter(
            hypothesis._replace(score=score) for hypothesis, score in zip(flat, scores.tolist(), strict=True)
        )
        return [
            sorted((next(rescored) for _ in nbest), key=lambda hypothesis: -hypothesis.score)
            for nbest in lists
        ]


def padded_tokens(hypotheses: Sequence[Hypothesis], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Symbols of hypotheses, (N, U) padded with 0, and how many there are of each, (N,)."""
    rows = [
        torch.tensor([token.id for token in hypothesis.tokens], dtype=torch.int64)
        for hypothesis in hypotheses
    ]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens.to(device), torch.tensor([len(row) for row in rows], device=device)


def attention_scores(
    attention: AttentionDecoder, frames: Tensor, lengths: Tensor, rows: Tensor, tokens: Tensor, counts: Tensor
) -> Tensor:
    """Log-probabilities of whole hypotheses, their ends included.

    Args:
        attention: the decoder.
        frames: (B, T, D) of the encoder.
        lengths: (B,) valid frames.
        rows: (N,) which utterance a hypothesis is of.
        tokens: (N, U), padded with 0.
        counts: (N,) symbols of each.

    Returns:
        (N,) float32.
    """
    parts = []
    for own, said, count in zip(*(part.split(ROWS_AT_ONCE) for part in (rows, tokens, counts)), strict=True):
        logits = attention(frames[own], lengths[own].clamp(min=1), said)
        # The end of a sentence is symbol 0, as is the padding behind it.
        targets = pad(said, (0, 1))
        scores = logits.float().log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
        parts.append((scores * valid_mask(count + 1, targets.shape[1])).sum(dim=1))
    return torch.cat(parts)


def sequence_scores(scorer: Scorer, tokens: Tensor) -> Tensor:
    """What a scorer gives to whole hypotheses (N, U), padded with 0, their ends included: (N,)."""
    state = scorer.start(len(tokens))
    total = torch.zeros(len(tokens), device=tokens.device)
    for column in tokens.unbind(1):
        total = total + scorer.scores(state).gather(1, column[:, None])[:, 0]
        state = scorer.advance(state, column)
    return total + scorer.final(state)

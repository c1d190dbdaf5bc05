"""Modified beam search of transducers: at most one symbol on a frame, for all utterances of a batch at once.

After each frame all hypotheses of an utterance have seen as many frames, so that they can be compared, and those of
equal symbols are one: the probabilities of their alignments are added up (icefall's search of this name). They are told
apart by 64-bit hashes of their symbols.

Dimensions: B utterances, T frames, D encoder width, J joiner width, V symbols, K hypotheses of an utterance, M moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.fusion import FusionConfig, build_scorer
from toolkit.decode.greedy import transducer_of
from toolkit.decode.hypothesis import Hypothesis, Token
from toolkit.decode.incremental import IncrementalSearch, join, put, split
from toolkit.decode.scorer import State, select
from toolkit.models.asr import AsrModel
from toolkit.text.tokenizer import Tokenizer

NEVER = float("-inf")
EMPTY = 0x5851F42D4C957F2D
"""Hash of no symbols."""


@dataclass
class ModifiedBeamConfig:
    """Modified beam search of a transducer."""

    name: str = "modified_beam"
    """Which search this is."""
    beam: int = 4
    """Hypotheses kept for each utterance."""
    nbest: int = 1
    """Hypotheses returned for each utterance, at most `beam`."""
    temperature: float = 1.0
    """What logits are divided by; over 1 for a model that is too sure of itself."""
    blank_penalty: float = 0.0
    """Subtracted from the blank's logit; over 0 for fewer deletions."""
    length_bonus: float = 0.0
    """Added to the score for each symbol."""
    internal_lm_scale: float = 0.0
    """How much of what the predictor alone says of the next symbol is taken away (ILME, arXiv 2011.01991)."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """Language models and phrases."""

    def __post_init__(self) -> None:
        if self.beam < 1 or not 1 <= self.nbest <= self.beam:
            raise ValueError(
                f"nbest must be at least 1 and at most beam, got nbest={self.nbest}, beam={self.beam}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be over 0, got {self.temperature}")


class Beam(NamedTuple):
    """Hypotheses, (B, K) each, best first; one that does not exist has the score -inf and a key like no other."""

    score: Tensor
    """Log-probability, with what was fused in."""
    key: Tensor
    """Hash of its symbols."""
    parent: Tensor
    """Hash of them without the last."""
    last: Tensor
    """Its last symbol, 0 if there is none."""


class BeamState(NamedTuple):
    """What is known of an utterance."""

    beam: Beam
    """B = 1."""
    predictor: State
    """K rows: the predictor's output, projected, and its state."""
    fused: State
    """K rows: what is added to the score of each next symbol, (K, V), and the scorer's state; empty for nothing."""
    histories: list[tuple[Token, ...]]
    """Symbols of the hypotheses."""
    frame: int
    """Number of the next frame."""


class Move(NamedTuple):
    """How the beam after a frame came from the one before: (B, K) each."""

    origin: Tensor
    """Place in the beam before."""
    symbol: Tensor
    """What was appended, 0 for nothing."""
    score: Tensor
    """Its log-probability by the transducer."""


class ModifiedBeam(IncrementalSearch):
    """Keeps the K likeliest sequences of symbols; a beam of one is greedy search with one symbol a frame.

    Raises:
        UserError: the model has no transducer, or what is to be fused in is missing or damaged.
    """

    Config = ModifiedBeamConfig

    def __init__(
        self, config: ModifiedBeamConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.scorer = build_scorer(config.fusion, tokenizer, device)
        self.transducer = transducer_of(model, config.name)
        self.slots = torch.arange(config.beam, device=self.device)

    @torch.no_grad()
    def start(self, frame: int = 0) -> BeamState:
        """See `IncrementalSearch`."""
        beam = self.config.beam
        output, state = self.transducer.predictor.start(beam, self.device)
        output = self.transducer.joiner.predictor_proj(output)
        scores = torch.full(
            (1, beam), NEVER, device=self.device, dtype=torch.promote_types(output.dtype, torch.float32)
        )
        scores[0, 0] = 0.0
        nothing = torch.zeros(1, beam, dtype=torch.int64, device=self.device)
        keys = self.slots.index_fill(0, self.slots[:1], EMPTY)[None]
        fused = self._fused(output, self.scorer.start(beam) if self.scorer else ())
        return BeamState(
            Beam(scores, keys, nothing - 1, nothing), (output, *state), fused, [()] * beam, frame
        )

    @torch.no_grad()
    def extend(self, frames: Tensor, lengths: Tensor, states: Sequence[BeamState]) -> list[BeamState]:
        """See `IncrementalSearch`."""
        encoded = self.transducer.joiner.encoder_proj(frames)
        beam = Beam(*join([state.beam for state in states]))
        predictor, fused = (join([getattr(state, key) for state in states]) for key in ("predictor", "fused"))
        rows = torch.arange(len(frames), device=self.device)[:, None] * self.config.beam
        counts = lengths.tolist()
        lengths = lengths.to(self.device)
        moves: list[tuple[int, Move]] = []
        for time in range(max(counts, default=0)):
            ended = None if time < min(counts) else time >= lengths
            beam, move = self._step(beam, encoded[:, time], predictor[0], fused, ended)
            appended = move.symbol > 0
            if (appended | (move.origin != self.slots)).any():
                moves.append((time, move))
                origin = (move.origin + rows).flatten()
                predictor, fused = select(predictor, origin), select(fused, origin)
                predictor, fused = self._advance(predictor, fused, move.symbol.flatten())
        parts = zip(*(split(state, len(states)) for state in (beam, predictor, fused)), strict=True)
        histories = _trace(moves, states)
        return [
            BeamState(Beam(*own), *others, history, state.frame + count)
            for (own, *others), history, state, count in zip(parts, histories, states, counts, strict=True)
        ]

    @torch.no_grad()
    def hypotheses(self, state: BeamState, final: bool = True) -> list[Hypothesis]:
        """See `IncrementalSearch`."""
        scores = state.beam.score[0]
        if final and self.scorer:
            scores = scores + self.scorer.final(state.fused[1:])
        best, order = scores.topk(self.config.nbest)
        found = [
            Hypothesis(list(state.histories[place]), score)
            for score, place in zip(best.tolist(), order.tolist(), strict=True)
        ]
        return [hypothesis for rank, hypothesis in enumerate(found) if not rank or hypothesis.score > NEVER]

    def _step(
        self, beam: Beam, encoded: Tensor, output: Tensor, fused: State, ended: Tensor | None
    ) -> tuple[Beam, Move]:
        """One frame (B, J); utterances that have `ended`, (B,) bool, stay as they are."""
        shape, config = beam.score.shape, self.config
        logits = self.transducer.joiner(encoded[:, None], output.view(*shape, -1)).to(beam.score.dtype)
        logits[..., 0] -= config.blank_penalty
        log_probs = (logits / config.temperature).log_softmax(dim=-1)
        if ended is not None:
            log_probs = log_probs.masked_fill(ended[:, None, None], NEVER)
            log_probs[..., 0].masked_fill_(ended[:, None], 0.0)
        totals = log_probs + beam.score[:, :, None]
        if fused:
            totals += fused[0].view_as(totals)
        _merge(totals, beam)
        score, chosen = totals.flatten(1).topk(config.beam)
        origin = chosen.div(totals.shape[2], rounding_mode="floor")
        symbol = chosen - origin * totals.shape[2]
        appended, exists = symbol > 0, score > NEVER
        key, parent = beam.key.gather(1, origin), beam.parent.gather(1, origin)
        new = Beam(
            score,
            torch.where(exists, torch.where(appended, _hash(key, symbol), key), self.slots),
            torch.where(exists, torch.where(appended, key, parent), -1),
            torch.where(appended, symbol, beam.last.gather(1, origin)),
        )
        return new, Move(origin, symbol, log_probs.flatten(1).gather(1, chosen))

    def _advance(self, predictor: State, fused: State, symbols: Tensor) -> tuple[State, State]:
        """Both after one more symbol (B * K,), where that is not 0: few hypotheses get one on the same frame."""
        rows = symbols.nonzero()[:, 0]
        if not len(rows):
            return predictor, fused
        symbols = symbols[rows]
        output, state = self.transducer.predictor.step(symbols, select(predictor[1:], rows))
        output = self.transducer.joiner.predictor_proj(output)
        predictor = put(predictor, rows, (output, *state))
        if fused:
            state = select(fused[1:], rows)
            fused = put(
                fused, rows, self._fused(output, self.scorer.advance(state, symbols) if self.scorer else ())
            )
        return predictor, fused

    def _fused(self, output: Tensor, state: State) -> State:
        """What is added for each next symbol, (N, V), from the predictor's outputs (N, J), and the scorer's state."""
        config, terms = self.config, []
        if self.scorer:
            terms.append(self.scorer.scores(state))
        if config.internal_lm_scale:
            logits = self.transducer.joiner(torch.zeros_like(output), output)[:, 1:]
            terms.append(-config.internal_lm_scale * _after_blank(logits.log_softmax(dim=-1)))
        if config.length_bonus:
            ones = output.new_ones(len(output), self.transducer.joiner.output.out_features - 1)
            terms.append(config.length_bonus * _after_blank(ones))
        return (torch.stack(terms).sum(dim=0), *state) if terms else ()


def _after_blank(scores: Tensor) -> Tensor:
    """(N, V - 1) scores of symbols to (N, V) with 0 for the blank."""
    return torch.nn.functional.pad(scores, (1, 0))


def _hash(keys: Tensor, symbols: Tensor) -> Tensor:
    """Hashes of sequences with one more symbol, by products that overflow."""
    mixed = (keys ^ (keys >> 29)) * 0x2545F4914F6CDD1D + symbols * 0x369DEA0F31A53F85
    return mixed ^ (mixed >> 32)


def _merge(totals: Tensor, beam: Beam) -> None:
    """Adds up, in place, what leads to equal sequences: a hypothesis that stays and its parent with the last symbol.

    The likelier of both ways gets the sum, so that the symbol's time is that of the better one.

    Args:
        totals: (B, K, V) scores of all ways to go on.
        beam: where they go on from.
    """
    related = beam.key[:, :, None] == beam.parent[:, None, :]
    last = beam.last[:, None, :].expand_as(related)
    again = totals.gather(2, last).masked_fill_(~related, NEVER)
    # No more than one hypothesis is the parent of another.
    other, stays = again.amax(dim=1), totals[:, :, 0]
    both = torch.logaddexp(stays, other)
    better = other > stays
    change = torch.where(better, both - other, NEVER)[:, None].expand_as(again)
    # Added, as two hypotheses may end in the same symbol without being related to the same parent.
    totals.scatter_add_(2, last, torch.where(again > NEVER, change, 0.0))
    totals[:, :, 0] = both.masked_fill_(better, NEVER)


def _trace(moves: list[tuple[int, Move]], states: Sequence[BeamState]) -> list[list[tuple[Token, ...]]]:
    """The symbols of all hypotheses, from what they were before the moves."""
    if not moves:
        return [state.histories for state in states]
    origins, symbols, scores = (
        torch.stack(parts).cpu().numpy() for parts in zip(*(move for _, move in moves), strict=True)
    )
    rows = np.arange(len(states))[:, None]
    place = np.broadcast_to(np.arange(origins.shape[2]), origins.shape[1:])
    places = np.empty_like(origins)
    for index in reversed(range(len(moves))):
        places[index] = place
        place = origins[index][rows, place]
    symbols, scores = (np.take_along_axis(part, places, axis=2) for part in (symbols, scores))
    times = np.array([time for time, _ in moves])
    found: list[list[tuple[Token, ...]]] = []
    for row, state in enumerate(states):
        found.append([])
        for slot, origin in enumerate(place[row].tolist()):
            kept = symbols[:, row, slot] > 0
            new = zip(
                symbols[kept, row, slot].tolist(),
                (times[kept] + state.frame).tolist(),
                scores[kept, row, slot].tolist(),
                strict=True,
            )
            tokens = (Token(symbol, time, time + 1, score) for symbol, time, score in new)
            found[-1].append((*state.histories[origin], *tokens))
    return found

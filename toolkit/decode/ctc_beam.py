"""CTC prefix beam search (Graves & Jaitly 2014; Hannun et al. 2014), for all utterances of a batch at once.

A hypothesis is a prefix: a sequence of tokens that stands for all paths that collapse to it. Two numbers are kept of
it, the probability of its paths that end in a blank and of those that end in its last token. Prefixes are told apart
by 64-bit hashes of their tokens, so that a prefix that was left and is found again is the same one.

Dimensions: B utterances, T frames, V symbols, K prefixes kept, C tokens tried in a frame, A ways to go on with a token
    (in a lexicon: within the word, or to the end of one of the words that are spelled like this), N = B * K.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toolkit.decode.ctc import align, with_ctc
from toolkit.decode.fusion import FusionConfig, build_scorer
from toolkit.decode.hypothesis import Hypothesis
from toolkit.decode.scorer import Scorer, State, select
from toolkit.decode.words import WordsConfig, WordSearch, build_words
from toolkit.models.asr import AsrModel
from toolkit.text.tokenizer import Tokenizer

NEVER = float("-inf")


@dataclass
class CtcBeamConfig:
    """Prefix beam search of CTC."""

    name: str = "ctc_beam"
    """Which search this is."""
    beam: int = 8
    """Prefixes kept for each utterance."""
    nbest: int = 1
    """Hypotheses returned for each utterance, at most `beam`."""
    token_beam: int = 20
    """Tokens tried in each frame, the likeliest by CTC alone."""
    paths: Literal["sum", "best"] = "sum"
    """What the score of a prefix is made of: all of its paths, or the best one."""
    blank_threshold: float = 1.0
    """Frames whose blank is likelier than this count as blank and cost no step; 1 for none."""
    length_bonus: float = 0.0
    """Added to the score for each token."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """What is added to the scores of tokens."""
    words: WordsConfig = field(default_factory=WordsConfig)
    """What words the tokens must spell."""

    def __post_init__(self) -> None:
        for name in ("beam", "nbest", "token_beam"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.nbest > self.beam:
            raise ValueError(f"nbest must be at most beam, got nbest={self.nbest}, beam={self.beam}")
        if not 0 < self.blank_threshold <= 1:
            raise ValueError(f"blank_threshold must be in (0, 1], got {self.blank_threshold}")


class Prefixes(NamedTuple):
    """The beam; a prefix that does not exist has -inf in both scores and a key like no other."""

    blank: Tensor
    """(B, K) log-probability of its paths that end in a blank."""
    token: Tensor
    """(B, K) of those that end in its last token."""
    added: Tensor
    """(B, K) what scorers, words and the length bonus gave."""
    last: Tensor
    """(B, K) its last token, 0 of the empty one."""
    key: Tensor
    """(B, K) hash of it."""
    parent: Tensor
    """(B, K) hash of it without its last token."""


Found = tuple[float, list[int], list[tuple[int, int]]]
"""Score, token ids, words with the number of tokens up to the end of each."""


class Step(NamedTuple):
    """How the beam after a frame came from the one before: (B, K) each."""

    origin: Tensor
    """Place in the beam before."""
    token: Tensor
    """What was appended, 0 for nothing."""
    word: Tensor
    """The word that ended with it, 0 for none."""


class CtcBeam:
    """Keeps the K likeliest sequences of tokens.

    Raises:
        UserError: the model has no CTC head, or something to fuse in or a lexicon is missing or for other tokens.
    """

    Config = CtcBeamConfig

    def __init__(
        self, config: CtcBeamConfig, model: AsrModel, tokenizer: Tokenizer, device: torch.device | str
    ) -> None:
        self.config, self.model = config, with_ctc(model, config.name)
        self.scorer = build_scorer(config.fusion, tokenizer, device)
        self.words = build_words(config.words, tokenizer, device)

    @torch.no_grad()
    def __call__(self, frames: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """(B, T, D) frames of the encoder and (B,) how many are valid, to B n-best lists."""
        log_probs = self.model.ctc_log_probs(frames)
        return prefix_search(log_probs, lengths, self.config, self.scorer, self.words)


def prefix_search(
    log_probs: Tensor,
    lengths: Tensor,
    config: CtcBeamConfig,
    scorer: Scorer | None = None,
    words: WordSearch | None = None,
) -> list[list[Hypothesis]]:
    """Searches for the best token sequences.

    With `paths: best`, a beam of one and nothing fused in, the result is that of greedy search, ties aside.

    Args:
        log_probs: (B, T, V) of CTC; symbol 0 is the blank.
        lengths: (B,) valid frames.
        config: how wide.
        scorer: what is added to the score of each next token.
        words: restricts the tokens to words of a lexicon. Where no hypothesis is at the end of a word at the end
            of the utterance, the complete words of the best one are returned.

    Returns:
        B n-best lists. The times and scores of tokens are those of the best path through them.
    """
    if not len(log_probs):
        return []
    frames = _merge_blanks(log_probs.detach(), lengths.to(log_probs.device), config.blank_threshold)
    top, ids = frames[..., 1:].topk(min(config.token_beam, frames.shape[2] - 1))
    search = PrefixSearch(config, scorer, words, frames)
    steps = [search.step(frames[:, t], top[:, t], ids[:, t] + 1, t) for t in range(frames.shape[1])]
    found = _trace(steps, *search.finish(), words is not None)
    rows = zip(log_probs.detach().float().cpu(), lengths.tolist(), found, strict=True)
    return [[_hypothesis(one, row[:length], words) for one in nbest] for row, length, nbest in rows]


class PrefixSearch:
    """The beam, and what follows its hypotheses."""

    def __init__(
        self,
        config: CtcBeamConfig,
        scorer: Scorer | None,
        words: WordSearch | None,
        frames: Tensor,
    ) -> None:
        self.config, self.scorer, self.words = config, scorer, words
        self.combine = torch.logaddexp if config.paths == "sum" else torch.maximum
        shape, device = (len(frames), config.beam), frames.device
        self.first_row = torch.arange(len(frames), device=device)[:, None] * config.beam
        self.unused = torch.arange(config.beam, device=device).expand(shape)
        never = frames.new_full(shape, NEVER)
        blank = never.clone()
        blank[:, 0] = 0.0
        nothing = torch.zeros(shape, dtype=torch.long, device=device)
        key = _hash(nothing, self.unused, nothing)
        self.prefixes = Prefixes(blank, never, torch.zeros_like(never), nothing, key, nothing)
        self.scorer_state: State = scorer.start(blank.numel()) if scorer else ()
        self.word_state: State = words.start(blank.numel()) if words else ()

    def step(self, frame: Tensor, top: Tensor, ids: Tensor, number: int) -> Step:
        """One frame: (B, V) log-probabilities; the tokens that are tried, (B, C) scores and ids; its number."""
        beam, shape = self.prefixes, self.prefixes.last.shape
        total = self.combine(beam.blank, beam.token)
        blank, token = self._stay(beam, total, frame)
        ways, added = self._extensions(beam, ids)
        again = ids[:, None, :] == beam.last[:, :, None]
        extended = torch.where(again, beam.blank[:, :, None], total[:, :, None]) + top[:, None, :]
        keys = _hash(beam.key[:, :, None, None], ids[:, None, :, None], ways)
        # What is in the beam already has got this path in `_stay`.
        present = (keys.flatten(1)[:, :, None] == beam.key[:, None, :]).any(2).view_as(keys)
        extended = extended[..., None].expand_as(keys).masked_fill(present, NEVER)

        choices = torch.cat([self.combine(blank, token) + beam.added, (extended + added).flatten(1)], dim=1)
        best, chosen = choices.topk(shape[1])
        stays = chosen < shape[1]
        others = keys.shape[2] * keys.shape[3]
        origin = torch.where(stays, chosen, (chosen - shape[1]).div(others, rounding_mode="floor"))

        def take(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old, new.expand_as(keys).flatten(1)], dim=1).gather(1, chosen)

        nothing = torch.zeros_like(beam.last)
        appended = take(nothing, ids[:, None, :, None])
        word = take(nothing, ways)
        exists = best > NEVER
        self.prefixes = Prefixes(
            take(blank, torch.full_like(extended, NEVER)),
            take(token, extended),
            take(beam.added, added),
            torch.where(stays, beam.last.gather(1, origin), appended),
            torch.where(exists, take(beam.key, keys), _hash(nothing - 1, self.unused, nothing + number)),
            torch.where(stays, beam.parent.gather(1, origin), beam.key.gather(1, origin)) * exists,
        )
        rows = (origin + self.first_row).flatten()
        if self.scorer:
            self.scorer_state = self.scorer.advance(select(self.scorer_state, rows), appended.flatten())
        if self.words:
            state = select(self.word_state, rows)
            self.word_state = self.words.advance(state, appended.flatten(), word.flatten())
        return Step(origin, appended, word)

    def _stay(self, beam: Prefixes, total: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, K) of the prefixes that stay as they are, with the paths from their parents."""
        last = frame.gather(1, beam.last)
        again = beam.last[:, :, None] == beam.last[:, None, :]
        from_parent = torch.where(again, beam.blank[:, :, None], total[:, :, None])
        is_parent = beam.key[:, :, None] == beam.parent[:, None, :]
        from_parent = from_parent.masked_fill(~is_parent, NEVER).amax(1)
        return total + frame[:, :1], self.combine(beam.token, from_parent) + last

    def _extensions(self, beam: Prefixes, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ways to go on with each token and what would have been added by then: (B, K, C, A) each."""
        shape = (*beam.last.shape, ids.shape[1])
        tokens = ids[:, None, :].expand(shape)
        added = beam.added[:, :, None] + self.config.length_bonus
        if self.scorer:
            scores = self.scorer.scores(self.scorer_state)
            added = added + scores.view(*shape[:2], -1).gather(2, tokens)
        added = added.expand(shape)[..., None]
        if not self.words:
            return torch.zeros_like(tokens)[..., None], added
        ways, scores = self.words.extensions(self.word_state, tokens.flatten(0, 1))
        return ways.view(*shape, -1), added + scores.view(*shape, -1)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Scores (B, nbest), best first, and their places in the beam."""
        beam = self.prefixes
        total = self.combine(beam.blank, beam.token) + beam.added
        if self.scorer:
            total = total + self.scorer.final(self.scorer_state).view_as(total)
        if self.words:
            complete = total + self.words.final(self.word_state).view_as(total)
            total = torch.where((complete > NEVER).any(1, keepdim=True), complete, total)
        return total.topk(self.config.nbest)


def _merge_blanks(log_probs: Tensor, lengths: Tensor, threshold: float) -> Tensor:
    """Frames in which nothing but the blank is possible where it is likely enough, and in padding.

    Each run of them becomes one frame, so that (B, T, V) becomes (B, at most T, V).
    """
    if log_probs.dtype not in (torch.float32, torch.float64):
        log_probs = log_probs.float()
    if not log_probs.shape[1]:
        log_probs = log_probs.new_zeros(len(log_probs), 1, log_probs.shape[2])
    padding = torch.arange(log_probs.shape[1], device=log_probs.device) >= lengths[:, None]
    blank = log_probs[..., 0].masked_fill(padding, 0.0)
    silent = padding | (blank.exp() > threshold) if threshold < 1 else padding
    only_blank = log_probs.masked_fill(silent[..., None], NEVER)
    only_blank[..., 0] = blank
    if threshold == 1:
        return only_blank
    starts = torch.ones_like(silent)
    starts[:, 1:] = ~(silent[:, 1:] & silent[:, :-1])
    place = starts.cumsum(1) - 1
    count = int(place[:, -1].max()) + 1
    merged = log_probs.new_zeros(len(log_probs), count, log_probs.shape[2])
    merged.scatter_add_(1, place[..., None].expand_as(log_probs), only_blank)
    beyond = torch.arange(count, device=log_probs.device) > place[:, -1:]
    merged[..., 1:].masked_fill_(beyond[..., None], NEVER)
    return merged


def _hash(key: Tensor, token: Tensor, way: Tensor) -> Tensor:
    """Int64 hash of a prefix's hash, one more token and the way it is meant (by products that overflow)."""
    mixed = (key ^ (key >> 31)) * 0x1B873593CC9E2D51 + token * 0x2545F4914F6CDD1D + way * 0x369DEA0F31A53F85
    mixed = (mixed ^ (mixed >> 29)) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    return mixed ^ (mixed >> 32)


def _trace(steps: list[Step], totals: Tensor, places: Tensor, with_words: bool) -> list[list[Found]]:
    """What was found for each utterance."""
    origins, tokens, words = (torch.stack(rows).cpu().numpy() for rows in zip(*steps, strict=True))
    totals, place = totals.cpu().numpy(), places.cpu().numpy()
    rows = np.arange(len(place))[:, None]
    path = np.zeros((2, len(steps), *place.shape), dtype=np.int64)
    for t in reversed(range(len(steps))):
        path[0, t], path[1, t] = tokens[t][rows, place], words[t][rows, place]
        place = origins[t][rows, place]
    found = []
    for row, scores in enumerate(totals):
        nbest = []
        for rank in np.flatnonzero(scores > NEVER):
            ids, ends = path[:, path[0, :, row, rank] > 0, row, rank]
            spelled = [(int(ends[end]), int(end) + 1) for end in np.flatnonzero(ends)]
            # Beyond the last complete word only half a word can follow.
            if with_words:
                ids = ids[: spelled[-1][1] if spelled else 0]
            nbest.append((float(scores[rank]), ids.tolist(), spelled))
        # Probabilities of 0 everywhere: nothing is as good as anything.
        found.append(nbest or [(NEVER, [], [])])
    return found


def _hypothesis(found: Found, log_probs: Tensor, words: WordSearch | None) -> Hypothesis:
    """With the times of the best path through log_probs, (T, V) on the CPU."""
    score, ids, ends = found
    tokens = align(log_probs, ids)
    return Hypothesis(tokens, score, words.vocabulary.timed(tokens, ends) if words else None)

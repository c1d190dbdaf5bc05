"""The words that a search may find, spelled in the tokens of a model.

A spelling holds whatever the model says for the word, the mark of its beginning included: "▁the" of a sentencepiece
model; "▁ t h e" of a model of characters that has "▁" between words, but not before the first one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit.decode.hypothesis import Token, Word
from toolkit.errors import UserError
from toolkit.text.backoff import BEGIN, END, UNKNOWN_WORDS, BackoffModel
from toolkit.text.lexicon import read_lexicon
from toolkit.text.tokenizer import SPACE, UNKNOWN_ID, PhoneTokenizer, Tokenizer


@dataclass
class Vocabulary:
    """Words and their spellings.

    Attributes:
        separator: the token that stands between words and nowhere else, if there is such a one: all spellings begin
            with it, and the first word of an utterance comes without.

    Raises:
        UserError: some spellings begin with "▁" and some do not, or one of them is nothing else.
    """

    words: list[str]
    """By id; entry 0 is no word."""
    spellings: list[tuple[int, tuple[int, ...]]]
    """Id of a word and its tokens; a word may have several spellings, a spelling several words."""
    space: int | None = None
    """The token "▁", if the model has it between words, but not before the first one."""
    source: str = "lexicon"
    """The file, for messages."""

    def __post_init__(self) -> None:
        self.separator = None
        for word, tokens in self.spellings:
            if self.space is not None and tokens[0] == self.space:
                self.separator = self.space
                if len(tokens) == 1 or self.space in tokens[1:]:
                    raise UserError(
                        f"{self.source}: {self.words[word]}: found {SPACE} alone or twice, expected letters after one"
                    )
        others = [word for word, tokens in self.spellings if tokens[0] != self.separator]
        if self.separator is not None and others:
            raise UserError(
                f"{self.source}: {self.words[others[0]]}: found no {SPACE} at its beginning, but before other words; "
                "expected it before all or none"
            )

    @cached_property
    def by_word(self) -> dict[int, list[tuple[int, ...]]]:
        """Id of a word -> its spellings."""
        found: dict[int, list[tuple[int, ...]]] = {}
        for word, tokens in self.spellings:
            found.setdefault(word, []).append(tokens)
        return found

    def ends(self, tokens: Sequence[int], words: Sequence[int]) -> list[tuple[int, int]]:
        """Finds out which tokens are which word's.

        Args:
            tokens: ids.
            words: ids of the words that they spell; an unfinished word may follow.

        Returns:
            Each finished word and the number of tokens up to its end.
        """
        # After each word: number of tokens up to there -> the same before the word.
        reached: list[dict[int, int]] = [{0: 0}]
        for word in words:
            following = {}
            for begin in reached[-1]:
                for spelling in self.by_word[word]:
                    for own in {spelling, spelling[begin == 0 and self.separator is not None :]}:
                        if tuple(tokens[begin : begin + len(own)]) == own:
                            following[begin + len(own)] = begin
            if not following:
                break
            reached.append(following)
        found, end = [], max(reached[-1])
        for word, before in reversed(list(zip(words, reached[1:], strict=False))):
            found.append((word, end))
            end = before[end]
        return found[::-1]

    def timed(self, tokens: Sequence[Token], ends: Iterable[tuple[int, int]]) -> list[Word]:
        """Words with their times.

        Args:
            tokens: of a hypothesis.
            ends: ids of words and the number of tokens up to their ends.
        """
        words, begin = [], 0
        for word, end in ends:
            own = tokens[begin + (tokens[begin].id == self.separator) : end]
            score = sum(token.score for token in own) / len(own)
            words.append(Word(self.words[word], own[0].start, own[-1].end, score))
            begin = end
        return words


def load_vocabulary(
    lexicon: str | Path | None, model: BackoffModel | None, tokenizer: Tokenizer
) -> Vocabulary:
    """The words of a lexicon, or those of an n-gram model as the tokenizer spells or pronounces them.

    Words with symbols that the tokenizer does not know are not among these.

    Args:
        lexicon: a file of words and their tokens, or None.
        model: over words; needed without a lexicon.
        tokenizer: of the recogniser.

    Raises:
        UserError: the lexicon is missing, malformed or for other tokens, or the tokenizer can spell none of the words.
    """
    space = _separator(tokenizer)
    if lexicon is not None:
        pronunciations = read_lexicon(lexicon, set(tokenizer.tokens)).pronunciations
        ids = {token: index for index, token in enumerate(tokenizer.tokens)}
        spellings = [
            (index, tuple(ids[symbol] for symbol in symbols))
            for index, entries in enumerate(pronunciations.values(), 1)
            for symbols in entries
        ]
        return Vocabulary(["", *pronunciations], spellings, space, str(lexicon))
    special = {BEGIN, END, *UNKNOWN_WORDS}
    words, spellings = [""], []
    for word in model.words:
        spelled = [] if word in special else _spell(word, tokenizer)
        if spelled:
            own = [ids if space is None else (space, *ids) for ids in spelled]
            spellings += [(len(words), ids) for ids in own]
            words.append(word)
    if not spellings:
        raise UserError(
            f"{model.source}: found no word that the model's tokens can spell, such as {model.words[-1]!r}; "
            "expected words in the spelling of the transcripts"
        )
    return Vocabulary(words, spellings, space, model.source)


def _spell(word: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens of a word, of each of its pronunciations for a model of phones; none if some are unknown."""
    if isinstance(tokenizer, PhoneTokenizer):
        entries = tokenizer.lexicon.pronunciations.get(tokenizer.normalize(word), [])
        return [tuple(tokenizer.ids[phone] for phone in phones) for phones in entries]
    ids = tokenizer.encode(word)
    return [tuple(ids)] if ids and UNKNOWN_ID not in ids else []


def _separator(tokenizer: Tokenizer) -> int | None:
    """The token between words, where no word begins with it by itself, as those of sentencepiece may."""
    one, two = tokenizer.encode("a"), tokenizer.encode("a a")
    between = two[len(one) : -len(one)]
    if two != [*one, *between, *one] or [tokenizer.tokens[index] for index in between] != [SPACE]:
        return None
    return between[0]

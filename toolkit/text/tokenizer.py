"""From text to token ids and back: characters, or sentencepiece units.

In a model directory a tokenizer is `tokens.txt` (a symbol and its id a line, as sherpa-onnx reads it) and, for
sentencepiece, `tokenizer.model`. Id 0 is the CTC blank, id 1 stands for what is unknown; "▁" stands for a space.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from toolkit.errors import UserError
from toolkit.files import atomic_write, read_text

BLANK, UNKNOWN, SPACE = "<blk>", "<unk>", "▁"
UNKNOWN_ID = 1
MOST_TEXTS = 10_000_000
"""Texts that sentencepiece holds in memory; of more, it draws so many, always the same."""


@dataclass
class TokenizerConfig:
    """What text is cut into; learned from the training transcripts."""

    type: Literal["char", "bpe", "unigram"] = "char"
    """Characters, byte-pair encoding or a unigram model."""
    vocab_size: int = 500
    """Symbols of a bpe or unigram model, blank included."""

    def __post_init__(self) -> None:
        if self.vocab_size < 3:
            raise ValueError(f"vocab_size must be at least 3, got {self.vocab_size}")


class Tokenizer(Protocol):
    """What the tasks need of a tokenizer."""

    tokens: list[str]
    """Symbol of each id."""

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""

    def save(self, folder: Path) -> None:
        """Writes the files of a model directory."""


class CharTokenizer:
    """One token a character.

    >>> tokenizer = CharTokenizer([BLANK, UNKNOWN, SPACE, "a", "b"])
    >>> tokenizer.encode("ab a"), tokenizer.decode([3, 4, 2, 3])
    ([3, 4, 2, 3], 'ab a')
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.ids = {token: index for index, token in enumerate(tokens)}

    @classmethod
    def learn(cls, texts: Iterable[str]) -> "CharTokenizer":
        """Collects the characters of the texts; UserError if there are none."""
        characters = {SPACE}
        for text in texts:
            characters.update(*text.split())
        if len(characters) == 1:
            raise UserError("data.train: found no text in the transcripts, expected some to learn from")
        return cls([BLANK, UNKNOWN, SPACE, *sorted(characters - {SPACE})])

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""
        return [self.ids.get(character, 1) for character in SPACE.join(text.split())]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""
        return " ".join("".join(self.tokens[index] for index in ids if index > 1).replace(SPACE, " ").split())

    def save(self, folder: Path) -> None:
        """Writes tokens.txt."""
        _write_tokens(folder, self.tokens)


class SentencePieceTokenizer:
    """Sub-word units of a sentencepiece model."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        if not model:
            raise RuntimeError("sentencepiece takes no bytes for a model without symbols")
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokens = [self.processor.id_to_piece(index) for index in range(self.processor.vocab_size())]

    @classmethod
    def learn(cls, texts: Iterable[str], config: TokenizerConfig) -> "SentencePieceTokenizer":
        """Trains a sentencepiece model.

        Raises:
            UserError: sentencepiece cannot make that many symbols of the texts.
            BaseException: what iterating over the texts raises.
        """
        import io

        import sentencepiece

        model = io.BytesIO()
        # Sentencepiece makes a RuntimeError of its own of whatever the iterator raises.
        raised: list[BaseException] = []

        def watched() -> Iterator[str]:
            try:
                yield from texts
            except BaseException as error:
                raised.append(error)
                raise

        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=watched(),
                input_sentence_size=MOST_TEXTS,
                shuffle_input_sentence=True,
                model_writer=model,
                model_type=config.type,
                vocab_size=config.vocab_size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                pad_id=0,
                pad_piece=BLANK,
                unk_id=1,
                unk_piece=UNKNOWN,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            if raised:
                raise raised[0] from None
            # Source file and condition come first, what it means after them.
            reason = str(error).rpartition("] ")[2] or "too few symbols in the training transcripts"
            raise UserError(f"tokenizer.vocab_size: found {config.vocab_size}: {reason}") from None
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""
        return self.processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""
        return self.processor.decode([index for index in ids if index > 1])

    def save(self, folder: Path) -> None:
        """Writes tokenizer.model and tokens.txt."""
        with atomic_write(folder / "tokenizer.model", "wb") as file:
            file.write(self.model)
        _write_tokens(folder, self.tokens)


def learn_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Makes the tokenizer that a configuration asks for from training texts."""
    return (
        CharTokenizer.learn(texts) if config.type == "char" else SentencePieceTokenizer.learn(texts, config)
    )


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads the tokenizer of a model directory.

    Raises:
        UserError: tokens.txt is missing, or a line of it is not "symbol id" in order; tokenizer.model is damaged.
    """
    folder = Path(folder)
    model = folder / "tokenizer.model"
    if model.exists():
        try:
            return SentencePieceTokenizer(model.read_bytes())
        except RuntimeError:
            raise UserError(f"{model}: empty or damaged, expected a sentencepiece model") from None
    path, tokens = folder / "tokens.txt", []
    text = read_text(path, "the tokens of a recogniser")
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        symbol, _, index = line.rpartition(" ")
        if index != str(number) or not symbol:
            raise UserError(f"{path}:{number + 1}: found {line!r}, expected a symbol and the id {number}")
        tokens.append(symbol)
    return CharTokenizer(tokens)


def _write_tokens(folder: Path, tokens: list[str]) -> None:
    with atomic_write(folder / "tokens.txt") as file:
        file.writelines(f"{token} {index}\n" for index, token in enumerate(tokens))

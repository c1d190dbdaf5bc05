"""From text to token ids and back: characters, sentencepiece units, or phones through a lexicon.

In a model directory a tokenizer is `tokens.txt` (a symbol and its id a line, as sherpa-onnx reads it), `tokenizer.yaml`
(its type, and how text is normalised), for sentencepiece `tokenizer.model`, for phones `lexicon.txt`. Id 0 is the CTC
blank, id 1 stands for what is unknown; "▁" stands for a space.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from toolkit import config as configuration
from toolkit.errors import UserError
from toolkit.files import atomic_write, read_text
from toolkit.text.lexicon import Lexicon, read_lexicon
from toolkit.text.normalize import AS_IS, Normalizer

BLANK, UNKNOWN, SPACE = "<blk>", "<unk>", "▁"
UNKNOWN_ID = 1
NO_TEXT = "data.train: found no text in the transcripts, expected some to learn from"
MOST_TEXTS = 10_000_000
"""Texts that sentencepiece holds in memory; of more, it draws so many, always the same."""


@dataclass
class TokenizerConfig:
    """What text is cut into; learned from the training transcripts, or taken over from a folder."""

    type: Literal["char", "bpe", "unigram", "phone"] = "char"
    """Characters, byte-pair encoding, a unigram model, or phones through a lexicon."""
    vocab_size: int = 500
    """Symbols of a bpe or unigram model, blank included."""
    lexicon: str | None = None
    """Pronunciations for type phone: a word and its phones a line (Kaldi's lexicon.txt)."""
    normalize: list[str] = field(default_factory=list)
    """Steps that text goes through first, in their order: nfc or nfkc (Unicode forms), lower or upper (case), tags
    (<noise> and [laughter] go), apostrophes (all become '), punctuation (goes, but for apostrophes within words), yo
    (Russian), no_spaces (as for Chinese characters)."""
    folder: str | None = None
    """A model directory, or folder of toolkit.bin.tokenizer, whose tokenizer is taken over as it is; null for none."""

    def __post_init__(self) -> None:
        if self.vocab_size < 3:
            raise ValueError(f"vocab_size must be at least 3, got {self.vocab_size}")
        if (self.type == "phone") != (self.lexicon is not None) and self.folder is None:
            raise ValueError(f"type phone, and no other, needs a lexicon, got {self.type} and {self.lexicon}")
        Normalizer(self.normalize)


@dataclass
class Settings:
    """What tokenizer.yaml says."""

    type: Literal["char", "sentencepiece", "phone"]
    """Which class reads the other files."""
    normalize: list[str] = field(default_factory=list)
    """As in TokenizerConfig."""

    def __post_init__(self) -> None:
        Normalizer(self.normalize)


class Tokenizer(Protocol):
    """What the tasks need of a tokenizer."""

    tokens: list[str]
    """Symbol of each id."""
    joins: bool
    """Whether symbols are parts of words, which follow one another without space; phones are not."""
    normalize: Normalizer
    """What text goes through before it is encoded, and references before they are compared with what was decoded."""

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""

    def unknown(self, text: str) -> list[str]:
        """What of a text the vocabulary lacks: characters, or words of a lexicon."""

    def save(self, folder: Path) -> None:
        """Writes the files of a model directory."""


class CharTokenizer:
    """One token a character.

    >>> tokenizer = CharTokenizer([BLANK, UNKNOWN, SPACE, "a", "b"])
    >>> tokenizer.encode("ab a"), tokenizer.decode([3, 4, 2, 3])
    ([3, 4, 2, 3], 'ab a')
    """

    joins = True

    def __init__(self, tokens: list[str], normalize: Normalizer = AS_IS) -> None:
        self.tokens, self.normalize = tokens, normalize
        self.ids = {token: index for index, token in enumerate(tokens)}

    @classmethod
    def learn(cls, texts: Iterable[str], normalize: Normalizer = AS_IS) -> "CharTokenizer":
        """Collects the characters of the texts; UserError if there are none."""
        characters = {SPACE}
        for text in map(normalize, texts):
            characters.update(*text.split())
        if len(characters) == 1:
            raise UserError(NO_TEXT)
        return cls([BLANK, UNKNOWN, SPACE, *sorted(characters - {SPACE})], normalize)

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""
        characters = SPACE.join(self.normalize(text).split())
        return [self.ids.get(character, UNKNOWN_ID) for character in characters]

    def unknown(self, text: str) -> list[str]:
        """Characters that the vocabulary lacks."""
        return [character for character in "".join(self.normalize(text).split()) if character not in self.ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""
        return " ".join("".join(self.tokens[index] for index in ids if index > 1).replace(SPACE, " ").split())

    def save(self, folder: Path) -> None:
        """Writes tokens.txt and tokenizer.yaml."""
        _write(folder, self.tokens, "char", self.normalize)


class SentencePieceTokenizer:
    """Sub-word units of a sentencepiece model."""

    joins = True

    def __init__(self, model: bytes, normalize: Normalizer = AS_IS) -> None:
        import sentencepiece

        if not model:
            raise RuntimeError("sentencepiece takes no bytes for a model without symbols")
        self.model, self.normalize = model, normalize
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
        normalize = Normalizer(config.normalize)

        def watched() -> Iterator[str]:
            try:
                yield from map(normalize, texts)
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
        return cls(model.getvalue(), normalize)

    def encode(self, text: str) -> list[int]:
        """Text to ids; what the vocabulary lacks becomes id 1."""
        return self.processor.encode(self.normalize(text))

    def unknown(self, text: str) -> list[str]:
        """Characters that the vocabulary lacks."""
        pieces = self.processor.encode(self.normalize(text), out_type=str)
        strange = (piece for piece in pieces if self.processor.piece_to_id(piece) == UNKNOWN_ID)
        return [character for piece in strange for character in piece.replace(SPACE, "")]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; blanks and unknowns are left out."""
        return self.processor.decode([index for index in ids if index > 1])

    def save(self, folder: Path) -> None:
        """Writes tokenizer.model, tokens.txt and tokenizer.yaml."""
        with atomic_write(folder / "tokenizer.model", "wb") as file:
            file.write(self.model)
        _write(folder, self.tokens, "sentencepiece", self.normalize)


class PhoneTokenizer:
    """The phones of words, as the first of their pronunciations has them.

    Phones are decoded to phones: which words they are, only a search with the lexicon can tell.

    >>> tokenizer = PhoneTokenizer([BLANK, UNKNOWN, "K", "T"], Lexicon({"cat": [("K", "T")]}))
    >>> tokenizer.encode("cat dog"), tokenizer.decode([2, 3, 1])
    ([2, 3, 1], 'K T')
    """

    joins = False

    def __init__(self, tokens: list[str], lexicon: Lexicon, normalize: Normalizer = AS_IS) -> None:
        self.tokens, self.lexicon, self.normalize = tokens, lexicon, normalize
        self.ids = {token: index for index, token in enumerate(tokens)}

    @classmethod
    def learn(cls, texts: Iterable[str], config: TokenizerConfig) -> "PhoneTokenizer":
        """Takes all phones of the lexicon; UserError if it knows no word of the texts."""
        lexicon, normalize = read_lexicon(config.lexicon), Normalizer(config.normalize)
        words = {word for text in map(normalize, texts) for word in text.split()}
        if not words:
            raise UserError(NO_TEXT)
        if words.isdisjoint(lexicon.pronunciations):
            names = ", ".join(map(repr, sorted(words)[:3]))
            raise UserError(f"{config.lexicon}: found no word of the training transcripts, such as {names}")
        return cls([BLANK, UNKNOWN, *lexicon.phones], lexicon, normalize)

    def encode(self, text: str) -> list[int]:
        """Words to ids of phones; a word that the lexicon lacks is pronounced as its <UNK>, or becomes id 1."""
        spoken = (self.lexicon[word] or (UNKNOWN,) for word in self.normalize(text).split())
        return [self.ids.get(phone, UNKNOWN_ID) for phones in spoken for phone in phones]

    def unknown(self, text: str) -> list[str]:
        """Words that the lexicon lacks."""
        return [word for word in self.normalize(text).split() if word not in self.lexicon.pronunciations]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to phones with spaces between them; blanks and unknowns are left out."""
        return " ".join(self.tokens[index] for index in ids if index > UNKNOWN_ID)

    def save(self, folder: Path) -> None:
        """Writes lexicon.txt, tokens.txt and tokenizer.yaml."""
        self.lexicon.save(folder / "lexicon.txt")
        _write(folder, self.tokens, "phone", self.normalize)


def learn_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Makes the tokenizer that a configuration asks for, from training texts if it is to be learned."""
    if config.folder is not None:
        return load_tokenizer(config.folder)
    if config.type == "phone":
        return PhoneTokenizer.learn(texts, config)
    if config.type == "char":
        return CharTokenizer.learn(texts, Normalizer(config.normalize))
    return SentencePieceTokenizer.learn(texts, config)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads the tokenizer of a model directory.

    Without tokenizer.yaml, as other programs leave it, it is one of sentencepiece if there is a tokenizer.model, and
    else one of characters.

    Raises:
        UserError: tokens.txt is missing, or a line of it is not "symbol id" in order; another file is damaged.
    """
    folder = Path(folder)
    model, settings = folder / "tokenizer.model", folder / "tokenizer.yaml"
    if settings.exists():
        found = configuration.load(Settings, settings)
    else:
        found = Settings("sentencepiece" if model.exists() else "char")
    normalize = Normalizer(found.normalize)
    if found.type == "sentencepiece":
        try:
            return SentencePieceTokenizer(model.read_bytes(), normalize)
        except FileNotFoundError:
            raise UserError(f"{model}: no such file, expected a sentencepiece model") from None
        except RuntimeError:
            raise UserError(f"{model}: empty or damaged, expected a sentencepiece model") from None
    tokens = _read_tokens(folder / "tokens.txt")
    if found.type == "phone":
        return PhoneTokenizer(tokens, read_lexicon(folder / "lexicon.txt", tokens), normalize)
    return CharTokenizer(tokens, normalize)


def _read_tokens(path: Path) -> list[str]:
    tokens = []
    text = read_text(path, "the tokens of a recogniser")
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        symbol, _, index = line.rpartition(" ")
        if index != str(number) or not symbol:
            raise UserError(f"{path}:{number + 1}: found {line!r}, expected a symbol and the id {number}")
        tokens.append(symbol)
    return tokens


def _write(folder: Path, tokens: list[str], kind: str, normalize: Normalizer) -> None:
    """Writes tokenizer.yaml, and tokens.txt last: where it is, the tokenizer is complete."""
    configuration.save(Settings(kind, normalize.steps), folder / "tokenizer.yaml")
    with atomic_write(folder / "tokens.txt") as file:
        file.writelines(f"{token} {index}\n" for index, token in enumerate(tokens))

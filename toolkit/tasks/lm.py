"""Language models over the tokens of a recogniser, for its searches."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import exp, log
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from toolkit.config import choice
from toolkit.data.batch import LmBatch, pad
from toolkit.data.sampling import Position, training_loader, validation_loader
from toolkit.data.text import Sentence, TextLines, TextSamplerConfig, TextStream, Transcribed
from toolkit.errors import UserError
from toolkit.models.lm import NETWORKS, LanguageModel
from toolkit.nn.masks import valid_mask
from toolkit.optim.build import OptimConfig
from toolkit.tasks.base import Task, named_cuts
from toolkit.text.tokenizer import TokenizerConfig, learn_tokenizer, load_tokenizer
from toolkit.train.config import TrainConfig

MOST_NATS = 100.0
"""Of a token; the perplexity of a model that is worse than that is not told apart from this."""


@dataclass
class TextConfig:
    """What a language model is trained and validated on."""

    train: str = ""
    """Text, a sentence a line (.gz is unpacked); or cuts (.jsonl, .jsonl.gz or a Shar folder), of which the transcripts
    are taken; synthetic:N makes N of them."""
    valid: str | None = None
    """The same to validate on; null for none."""
    sampler: TextSamplerConfig = field(default_factory=TextSamplerConfig)
    """How sentences become batches."""


@dataclass
class LmConfig:
    """A language model."""

    task: Literal["lm"] = "lm"
    """What is learned."""
    seed: int = 0
    """Of weights, order and dropout."""
    data: TextConfig = field(default_factory=TextConfig)
    """Training and validation data."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """How text is cut into symbols; its key `folder` takes over those of a recogniser."""
    network: Any = choice(NETWORKS, "lstm")
    """What looks at the symbols so far."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""


class LmTask(Task):
    """Sentences -> network -> cross-entropy of each next token, the end included; see `loss` for the statistics."""

    Config = LmConfig

    def prepare(self) -> None:
        """Takes over a recogniser's tokenizer, or learns one from the training text."""
        if (self.model_dir / "tokens.txt").exists():
            return
        texts = (sentence.text for sentence in sentences(self.config.data.train, "data.train"))
        learn_tokenizer(texts, self.config.tokenizer).save(self.model_dir)

    def build_model(self) -> LanguageModel:
        """A model for the symbols of the model directory."""
        self.tokenizer = load_tokenizer(self.model_dir)
        return LanguageModel(self.config.network, len(self.tokenizer.tokens))

    def collate(self, group: list[Sentence], rng: random.Random) -> LmBatch:
        """Tokens; nothing here is left to chance."""
        rows = [torch.tensor(self.tokenizer.encode(text), dtype=torch.int64) for _, text in group]
        lengths = [len(row) for row in rows]
        return LmBatch(
            ids=[sentence.id for sentence in group],
            tokens=pad(rows, 0),
            lengths=torch.tensor(lengths),
            num_tokens=sum(lengths) + len(lengths),
            num_characters=sum(len(text) for _, text in group),
        )

    def loss(self, model: torch.nn.Module, batch: LmBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Cross-entropy, summed over tokens and ends of sentences; "characters" is how many there are to each.

        Of these comes what `derived` adds.
        """
        log_probs = model(batch.tokens)
        # Padding is 0, and so is the end of a sentence.
        targets = torch.nn.functional.pad(batch.tokens, (0, 1))
        found = log_probs.gather(2, targets[..., None])[..., 0]
        counted = valid_mask(batch.lengths + 1, targets.shape[1])
        characters = found.new_full((), batch.num_characters)
        return -(found * counted).sum(), {"characters": characters}, counted.sum()

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity of tokens, and bits a character, by which models over different tokens can be compared."""
        if not means.get("characters"):
            return {}
        bits = means["loss"] / log(2) / means["characters"]
        return {"perplexity": exp(min(means["loss"], MOST_NATS)), "bits_per_character": bits}

    def training_batches(
        self, start: tuple[int, int, int], consumed: int, rank: int, world_size: int, pin_memory: bool
    ) -> Iterable:
        """See `toolkit.train.loop.Task`."""
        place = Position(*start), consumed, rank, world_size, pin_memory
        return training_loader(self._training_stream(), self.collate, *place)

    def validation_batches(self, rank: int, world_size: int, pin_memory: bool) -> Iterable:
        """See `toolkit.train.loop.Task`."""
        name = self.config.data.valid
        if name is None:
            return []
        stream = TextStream(sentences(name, "data.valid"), self.config.data.sampler, self.seed, False, name)
        return validation_loader(stream, self.collate, rank, world_size, pin_memory)

    def largest_batches(self, count: int) -> list[LmBatch]:
        """Of the first `count` batches that with most tokens, padding included."""
        groups = islice(self._training_stream().walk(Position(0, 0, 0)), count)
        batches = (self.collate(group, random.Random(self.seed)) for _, group in groups)
        return [max(batches, key=lambda batch: batch.padded_amount)]

    def _training_stream(self) -> TextStream:
        data = self.config.data
        return TextStream(sentences(data.train, "data.train"), data.sampler, self.seed, True, data.train)


def sentences(name: str, key: str) -> Iterable[Sentence]:
    """What a configuration names: the lines of a text file, or the transcripts of cuts.

    Args:
        name: what is named.
        key: where, for messages.

    Raises:
        UserError: nothing is named, or it is not there.
    """
    if not name:
        raise UserError(f"{key}: found nothing, expected a text file or a cuts manifest")
    if name.startswith("synthetic:") or name.endswith((".jsonl", ".jsonl.gz")) or Path(name).is_dir():
        return Transcribed(named_cuts(name, key))
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file, expected text, a sentence a line, or a cuts manifest")
    return TextLines(name)

"""Speech recognition: CTC, transducer, attention decoder, or a weighted sum of them."""

import math
import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from toolkit.data.batch import AsrBatch, pad, read_audio
from toolkit.data.text import transcript
from toolkit.models.asr import AsrModel, CtcConfig
from toolkit.models.attention_decoder import AttentionConfig
from toolkit.models.base import Augment, SpeechConfig, SpeechEncoder
from toolkit.models.transducer import TransducerConfig
from toolkit.nn.specaugment import SpecAugment, SpecAugmentConfig
from toolkit.optim.build import OptimConfig
from toolkit.ssl.masking import MaskConfig, draw_mask, split, uniform
from toolkit.tasks.asr_losses import attention_losses, ctc_losses, transducer_losses
from toolkit.tasks.base import DataConfig, InitConfig, Task, inner
from toolkit.text.tokenizer import UNKNOWN_ID, TokenizerConfig, learn_tokenizer, load_tokenizer
from toolkit.train.config import TrainConfig


@dataclass
class AsrConfig:
    """Speech recognition."""

    task: Literal["asr"] = "asr"
    """What is learned."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training and validation data."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """How text is cut into symbols."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """The encoder; as in the pretrained model, if there is one."""
    init: InitConfig = field(default_factory=InitConfig)
    """The pretrained encoder."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.0, min_spans=0))
    """Which latent frames are hidden in training, as in pretraining."""
    channel_mask: MaskConfig = field(default_factory=lambda: MaskConfig(prob=0.0, span=64, min_spans=0))
    """Which dimensions of the latents are zeroed in training, for the whole of an utterance (wav2vec 2.0)."""
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    """What is hidden of the features in training."""
    ctc: CtcConfig = field(default_factory=CtcConfig)
    """The CTC head."""
    transducer: TransducerConfig = field(default_factory=TransducerConfig)
    """The transducer."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """The attention decoder."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The train loop."""

    def __post_init__(self) -> None:
        if not (self.ctc.scale or self.transducer.scale or self.attention.scale):
            raise ValueError("one of ctc.scale, transducer.scale and attention.scale must be over 0")
        if self.ctc.consistency and not (self.ctc.scale and self.spec_augment.prob):
            raise ValueError("ctc.consistency needs ctc.scale and spec_augment.prob over 0")


class AsrTask(Task):
    """Cuts with transcripts -> encoder and heads -> weighted sum of their losses; see `loss` for the statistics."""

    Config = AsrConfig

    def prepare(self) -> None:
        """Learns the tokenizer from the training transcripts."""
        if not (self.model_dir / "tokens.txt").exists():
            texts = (transcript(cut) for cut in self.training_cuts())
            learn_tokenizer(texts, self.config.tokenizer).save(self.model_dir)

    def build_model(self) -> AsrModel:
        """A model for the symbols of the model directory."""
        self.tokenizer = load_tokenizer(self.model_dir)
        config = self.config
        heads = config.ctc, config.transducer, config.attention
        model = AsrModel(self.build_speech(), len(self.tokenizer.tokens), *heads)
        if not config.mask.prob:
            # Never used then, and a parameter without gradient would stall training on several ranks.
            model.speech.encoder.mask_embedding.requires_grad_(False)
        with torch.device("meta"):
            # Knows how many frames there will be, and is small enough for loader workers.
            self.frames_of = SpeechEncoder(config.speech).output_lengths
        return model

    def collate(self, cuts: CutSet, rng: random.Random) -> AsrBatch:
        """Audio and tokens; a transcript that cannot be learned is a reason to skip its cut."""
        tokens: dict[str, list[int]] = {}

        def problem(cut: Cut) -> str | None:
            tokens[cut.id] = self.tokenizer.encode(transcript(cut))
            return self._problem(cut, tokens[cut.id])

        cuts, audio = read_audio(cuts, rng, problem)
        rows = [torch.tensor(tokens[cut.id], dtype=torch.int64) for cut in cuts]
        rows = rows or [torch.ones(1, dtype=torch.int64)]
        return AsrBatch(**audio, tokens=pad(rows, 0), token_lengths=torch.tensor([len(row) for row in rows]))

    def _problem(self, cut: Cut, tokens: list[int]) -> str | None:
        if not tokens:
            return "empty transcript: there is nothing to learn"
        if UNKNOWN_ID in tokens:
            return "unknown symbols: the transcript has some that tokens.txt lacks"
        needed, frames = needed_frames(tokens, self.config), self.frames_of(cut.num_samples)
        if frames < needed:
            return f"transcript too long: {len(tokens)} tokens need {needed} frames, found {frames}"
        return None

    def loss(self, model: torch.nn.Module, batch: AsrBatch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The weighted sum of the losses of all heads, summed over utterances, per token.

        Statistics are the losses themselves, where there are several.
        """
        config = self.config
        copies = model.training and config.ctc.consistency > 0
        if copies:
            batch = twice(batch)
        hidden = self._mask(model, batch), self._augment(model, batch), self._channels(model, batch)
        output = model(batch.waveforms, batch.lengths, batch.tokens, *hidden)
        losses = {}
        if output.log_probs is not None:
            losses.update(ctc_losses(output, batch, config.ctc, copies))
        if output.transducer is not None:
            of_transducer = output.transducer, output.lengths, batch, config.transducer, self.update
            losses.update(transducer_losses(inner(model), *of_transducer))
        if output.logits is not None:
            losses.update(attention_losses(output, batch, config.attention))
        share = 0.5 if copies else 1.0
        sums = {name: share * loss.sum() for name, (loss, _) in losses.items()}
        total = sum(scale * sums[name] for name, (_, scale) in losses.items())
        stats = {name: value.detach() for name, value in sums.items() if len(sums) > 1}
        return total, stats, share * batch.token_lengths.sum()

    def _mask(self, model: torch.nn.Module, batch: AsrBatch) -> Tensor | None:
        if not (model.training and self.config.mask.prob):
            return None
        speech = inner(model).speech
        frames = speech.latent_lengths(batch.waveforms.shape[1])
        return draw_mask(self.config.mask, speech.latent_lengths(batch.lengths), frames, batch.seeds)

    def _channels(self, model: torch.nn.Module, batch: AsrBatch) -> Tensor | None:
        if not (model.training and self.config.channel_mask.prob):
            return None
        dim = inner(model).speech.latent_dim
        # Not the first one, by which the lengths of the frames' spans are drawn.
        seeds = split(batch.seeds, 2)[:, 1]
        return draw_mask(self.config.channel_mask, torch.full_like(seeds, dim), dim, seeds)

    def _augment(self, model: torch.nn.Module, batch: AsrBatch) -> Augment | None:
        if not (model.training and self.config.spec_augment.prob):
            return None
        augment = SpecAugment(self.config.spec_augment)
        # The seeds themselves decide the mask of the encoder's frames.
        return partial(augment, draws=uniform(~batch.seeds, augment.num_draws))


def twice(batch: AsrBatch) -> AsrBatch:
    """Every utterance a second time, with other random numbers for what is hidden of it."""
    doubled = batch.map(lambda tensor: torch.cat([tensor, tensor]))
    return replace(doubled, seeds=split(batch.seeds, 2).t().flatten())


def needed_frames(tokens: list[int], config: AsrConfig) -> int:
    """The fewest frames in which every head has an alignment for the tokens.

    CTC needs one for each token and for the blank between two of a kind. A transducer needs one for each token where a
    token takes a frame (topologies "modified" and "constrained"), else as many as let its band pass all tokens.
    """
    transducer = config.transducer
    if config.ctc.scale:
        return len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if transducer.scale and transducer.loss.topology != "regular":
        return len(tokens)
    if transducer.scale and transducer.pruned:
        return math.ceil(len(tokens) / (transducer.loss.prune_range - 1))
    return 1

"""Contrastive prediction of quantised latents (wav2vec 2.0, Baevski et al. 2020, arXiv 2006.11477).

Dimensions: B utterances, T frames, N masked frames of an utterance (padded), D encoder width, E latent width, G groups
and V entries of the quantiser, Q width of its codevectors, P width in which frames are compared, K negatives.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.models.base import SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.dropout import Dropout
from toolkit.nn.masks import valid_mask
from toolkit.nn.scheduled import Clocked
from toolkit.ssl.hubert import mean_square
from toolkit.ssl.masking import MaskConfig, draw_mask, most_hidden, split, uniform
from toolkit.ssl.model import Objective
from toolkit.ssl.quantizer import GumbelQuantizer, perplexity, standardize, usage
from toolkit.ssl.rows import hidden_rows, pick


@dataclass
class Wav2Vec2Config:
    """What is masked, how targets are quantised and told apart."""

    name: str = "wav2vec2"
    """Which objective this is."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Which frames are hidden."""
    groups: int = 2
    """G, codebooks of which a target has one entry each."""
    entries: int = 320
    """V, entries of a codebook."""
    codevector_dim: int = 256
    """Q, width of the quantised targets, over all groups."""
    compared_dim: int = 256
    """P, width to which targets and predictions are projected."""
    negatives: int = 100
    """K, other masked frames of the utterance from which the right one is to be told."""
    temperature: float = 0.1
    """What cosines are divided by."""
    gumbel_temperature: tuple[float, float] = (2.0, 0.5)
    """Temperature of the quantiser at first and in the end."""
    gumbel_decay: float = 0.999995
    """What that temperature is multiplied by in every update."""
    diversity_weight: float = 0.1
    """Weight of the loss on codebook entries that are not used."""
    feature_penalty: float = 10.0
    """Weight of the mean square of the front end's features, where it learns."""
    target_dropout: float = 0.1
    """Dropout on the latents that are quantised."""
    standardize: bool = False
    """Whether latents have zero mean and unit variance over each utterance when they are quantised. What those of
    filterbanks have in common in all frames would else choose the entries: few of them, which tell little apart."""
    learn_latents: bool = True
    """Whether the latents learn from being targets, as in the paper; if not, from the encoder alone. Those of
    filterbanks come to leave out what is hard to foretell."""

    def __post_init__(self) -> None:
        if not self.mask.prob:
            raise ValueError("mask.prob must be positive")
        first, last = self.gumbel_temperature
        if min(self.groups, self.entries - 1, self.compared_dim, self.negatives) < 1:
            raise ValueError("groups >= 1, entries >= 2, compared_dim >= 1 and negatives >= 1 are needed")
        if self.codevector_dim < 1 or self.codevector_dim % self.groups:
            raise ValueError(
                f"codevector_dim must be a multiple of groups, got {self.codevector_dim} and {self.groups}"
            )
        if self.temperature <= 0 or not 0 < last <= first or not 0 < self.gumbel_decay <= 1:
            raise ValueError(
                "temperature > 0, gumbel_temperature [first, last] with first >= last > 0 and 0 < gumbel_decay <= 1 "
                "are needed"
            )
        if min(self.diversity_weight, self.feature_penalty) < 0 or not 0 <= self.target_dropout < 1:
            raise ValueError(
                "diversity_weight >= 0, feature_penalty >= 0 and 0 <= target_dropout < 1 are needed"
            )


class Wav2Vec2Objective(Objective, Clocked):
    """Tells the quantised latent of a masked frame from those of other masked frames of the utterance.

    The diversity loss looks at the mean choice over the masked frames of the batch, as in the paper: of a smaller set,
    such as one short utterance, it would ask for more entries than there are sounds. So it is the one term that depends
    on what shares a batch. Batches are the same for any number of ranks, and so are losses and gradients.
    """

    Config = Wav2Vec2Config

    def __init__(self, config: Wav2Vec2Config, speech: SpeechEncoder) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.target_dropout)
        self.quantizer = GumbelQuantizer(
            speech.latent_dim, config.groups, config.entries, config.codevector_dim
        )
        self.project_target = nn.Linear(config.codevector_dim, config.compared_dim)
        self.project_frame = nn.Linear(speech.dim, config.compared_dim)

    @property
    def gumbel_temperature(self) -> Tensor:
        """Of the quantiser, after the updates done so far; on the CPU."""
        first, last = self.config.gumbel_temperature
        return torch.as_tensor(first * self.config.gumbel_decay**self.time).clamp(min=last)

    def targets(
        self, speech: SpeechEncoder, waveforms: Tensor, lengths: Tensor, changed: bool
    ) -> tuple[Tensor | None, Tensor]:
        """What is quantised, and the valid frames of features, whose size is penalised.

        If the student hears something else, the latents (B, T, E) of the audio as it was, with gradients; else None,
        which stands for the student's own.
        """
        latents = speech.latents(waveforms, lengths)[0] if changed else None
        return latents, speech.frontend.output_lengths(lengths)

    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """(B, T) bool, True for hidden frames; see `draw_mask`."""
        return draw_mask(self.config.mask, lengths, frames, seeds)

    def loss(
        self,
        output: EncoderOutput,
        targets: tuple[Tensor | None, Tensor],
        labels: None,
        mask: Tensor,
        seeds: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """How far off encoder and quantiser are; see `Objective.loss`.

        Returns:
            Loss; how often the right target was the most similar ("accuracy"), how many entries the targets of the
            batch use over all groups ("code_perplexity") and "feature_penalty", which is part of the loss; the number
            of masked frames.
        """
        config, frames = self.config, mask.shape[1]
        latents, feature_lengths = targets
        places, hidden = hidden_rows(
            mask & valid_mask(output.lengths, frames), most_hidden(config.mask, frames)
        )
        counts, counted = hidden.sum(dim=1), hidden.flatten()
        latents = output.latents if latents is None else latents
        if config.standardize:
            latents = standardize(latents, output.lengths)
        latents = pick(latents if config.learn_latents else latents.detach(), places, hidden)
        quantized = self.quantizer(self.dropout(latents).flatten(0, 1), self.gumbel_temperature)
        negatives = draw_negatives(counts, hidden.shape[1], config.negatives, seeds)
        loss, correct = contrastive_loss(
            self.project_frame(pick(output.frames, places, hidden)),
            self.project_target(quantized.vectors).unflatten(0, hidden.shape),
            quantized.codes.unflatten(0, hidden.shape),
            negatives,
            hidden,
            config.temperature,
        )
        weight = hidden.sum()
        used = perplexity(usage(quantized.codes, counted, config.entries)).sum()
        stats = {"accuracy": correct, "code_perplexity": used * weight}
        if config.diversity_weight:
            loss = loss + config.diversity_weight * diversity_loss(quantized.probs, counted) * weight
        if output.features is not None and config.feature_penalty:
            penalty = (config.feature_penalty * mean_square(output.features, feature_lengths) * counts).sum()
            loss, stats["feature_penalty"] = loss + penalty, penalty.detach()
        return loss, stats, weight


def draw_negatives(counts: Tensor, size: int, negatives: int, seeds: Tensor) -> Tensor:
    """Draws other masked frames for each masked frame, with replacement.

    Args:
        counts: (B,) masked frames of each utterance.
        size: N.
        negatives: K.
        seeds: (B,) int64.

    Returns:
        (B, N, K) int64, numbers from 0 to counts - 1 in each row that is not padding, never the row's own. In an
        utterance of one masked frame, they mean nothing.
    """
    draws = uniform(split(seeds, 2)[:, 1], size * negatives).view(len(seeds), size, negatives)
    drawn = (draws * (counts - 1).clamp(min=0)[:, None, None]).long()
    own = torch.arange(size, device=counts.device)[:, None]
    return (drawn + (drawn >= own)).clamp(max=size - 1)


def contrastive_loss(
    predictions: Tensor,
    targets: Tensor,
    codes: Tensor,
    negatives: Tensor,
    counted: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the right target among the negatives (equation 3), by cosine similarity.

    All pairs within an utterance are compared and those that were drawn are picked out: (N, N) numbers take less
    room than (N, K, P).

    Args:
        predictions: (B, N, P).
        targets: (B, N, P), those of the same frames.
        codes: (B, N, G) int64; negatives of the same codes as the right target are left out.
        negatives: (B, N, K) int64, numbers of frames of the same utterance.
        counted: (B, N) bool, which frames count. An utterance needs two for there to be negatives; the loss of one
            frame alone is 0.
        temperature: what cosines are divided by.

    Returns:
        The loss, summed over frames, and in how many the right target was more similar than every negative.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        predictions = functional.normalize(predictions.float(), dim=-1)
        scores = predictions @ functional.normalize(targets.float(), dim=-1).mT / temperature
    same = torch.ones_like(negatives, dtype=torch.bool)
    for group in codes.unbind(dim=-1):
        others = group[:, None].expand(-1, group.shape[1], -1).gather(2, negatives)
        same = same & (others == group[..., None])
    alone = counted.sum(dim=1)[:, None, None] < 2
    right = scores.diagonal(dim1=1, dim2=2)
    wrong = scores.gather(2, negatives).masked_fill(same | alone, -torch.inf)
    losses = torch.cat([right[..., None], wrong], dim=-1).logsumexp(dim=-1) - right
    best = wrong.amax(dim=-1)
    # Where all targets are alike there is nothing to be told apart, and no merit in it.
    correct = (best < right) & (best > -torch.inf)
    return (losses * counted).sum(), (correct & counted).sum()


def diversity_loss(probs: Tensor, counted: Tensor) -> Tensor:
    """Share of entries that the mean choice leaves unused (equation 4): 1 - sum of perplexities / (G V).

    Args:
        probs: (N, G, V) softmax of the quantiser's scores.
        counted: (N,) bool, which frames count.
    """
    mean = (probs * counted[:, None, None]).sum(dim=0) / counted.sum().clamp(min=1)
    return 1 - perplexity(mean).sum() / mean.numel()

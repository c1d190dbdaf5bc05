"""Prediction of random-projection codes (BEST-RQ, Chiu et al. 2022, arXiv 2202.01855), of several codebooks if wanted
(USM, arXiv 2303.01037; NEST, arXiv 2408.13106).

The paper hides frames by noise in the features, drawn anew each time; here the learned mask embedding replaces their
latents, as in the other objectives.

Dimensions: B utterances, S samples, T' feature frames, F mel bins, T encoder frames of k feature frames each, X = k F,
D encoder width, C codebooks, V entries of each, Q width of an entry, R frames that count.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import UserError
from toolkit.models.base import SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.features import Fbank, FbankConfig
from toolkit.nn.masks import valid_mask
from toolkit.ssl.masking import MaskConfig, draw_mask, most_hidden
from toolkit.ssl.model import Objective
from toolkit.ssl.quantizer import perplexity, standardize, usage
from toolkit.ssl.rows import pick, weighted_rows

SCORES_AT_ONCE = 2**24
"""Similarities (rows x codebooks x entries) held at a time."""


@dataclass
class BestRqConfig:
    """What is masked, and the random codebooks that make targets."""

    name: str = "best_rq"
    """Which objective this is."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Which frames are hidden."""
    codebooks: int = 1
    """C, codebooks that make a target each; USM has 16. Memory for scores grows with their number."""
    entries: int = 8192
    """V, entries of a codebook."""
    entry_dim: int = 16
    """Q, width to which features are projected."""
    seed: int = 0
    """Of projections and codebooks, which are not learned."""
    num_mel_bins: int = 80
    """F, of the features that are quantised; the encoder may hear others."""
    unmasked_weight: float = 0.0
    """Weight of the frames that are not masked, 0 in the paper. It keeps the upper layers from losing what these frames
    say before masked ones are foretold, which takes long."""

    def __post_init__(self) -> None:
        if min(self.codebooks, self.entries - 1, self.entry_dim) < 1 or self.num_mel_bins < 8:
            raise ValueError("codebooks >= 1, entries >= 2, entry_dim >= 1 and num_mel_bins >= 8 are needed")
        if not self.mask.prob:
            raise ValueError("mask.prob must be positive")
        if self.unmasked_weight < 0:
            raise ValueError(f"unmasked_weight must not be negative, got {self.unmasked_weight}")


class BestRqObjective(Objective):
    """Cross-entropy over the codes of masked frames, the mean over codebooks, from one linear layer.

    With a weight for unmasked frames, theirs count too.

    A target describes the stretch of audio around the middle of what its latent frame sees.

    Raises:
        UserError: an encoder whose frames do not come at a multiple of 10 ms.
    """

    Config = BestRqConfig

    def __init__(self, config: BestRqConfig, speech: SpeechEncoder) -> None:
        super().__init__()
        self.config = config
        rate = speech.config.frontend.sample_rate
        self.fbank = Fbank(FbankConfig(sample_rate=rate, num_mel_bins=config.num_mel_bins))
        self.stacked = round(speech.frame_shift / self.fbank.frame_shift)
        if abs(self.stacked * self.fbank.frame_shift - speech.frame_shift) > 1e-6 or self.stacked < 1:
            raise UserError(
                f"objective.name: best_rq needs an encoder with frames at a multiple of {self.fbank.frame_shift} s, "
                f"found {speech.frame_shift} s"
            )
        middle = first_middle(speech.latent_lengths, round(speech.frame_shift * rate))
        self.start = round(middle / self.fbank.config.window_shift - self.stacked / 2)
        self.quantizer = RandomQuantizer(
            self.stacked * config.num_mel_bins,
            config.codebooks,
            config.entries,
            config.entry_dim,
            config.seed,
        )
        self.head = nn.Linear(speech.dim, config.codebooks * config.entries)

    @torch.no_grad()
    def targets(self, speech: SpeechEncoder, waveforms: Tensor, lengths: Tensor, changed: bool) -> Tensor:
        """(B, T, C Q) projected features, whose nearest entries are looked up where frames are masked."""
        features, feature_lengths = self.fbank(waveforms, lengths)
        features = standardize(features, feature_lengths)
        return self.quantizer.project(
            stack(features, self.start, self.stacked, speech.latent_lengths(waveforms.shape[1]))
        )

    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """(B, T) bool, True for hidden frames; see `draw_mask`."""
        return draw_mask(self.config.mask, lengths, frames, seeds)

    def loss(
        self, output: EncoderOutput, targets: Tensor, labels: None, mask: Tensor, seeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss, and the number of masked frames.

        Statistics: "accuracy", the share of codebooks whose code is told right at masked frames; "target_perplexity",
        how many entries of a codebook the targets of the batch use.
        """
        config, frames = self.config, mask.shape[1]
        valid = valid_mask(output.lengths, frames)
        masked = mask & valid
        places, counted, is_masked, weights = weighted_rows(
            masked, valid, most_hidden(config.mask, frames), 1.0, config.unmasked_weight
        )
        codes = self.quantizer(pick(targets, places, counted).flatten(0, 1))
        logits = self.head(pick(output.frames, places, counted).flatten(0, 1)).float()
        logits = logits.view(-1, config.entries)
        losses = functional.cross_entropy(logits, codes.flatten(), reduction="none").view_as(codes)
        correct = logits.argmax(dim=-1).view_as(codes) == codes
        weight = masked.sum()
        used = perplexity(usage(codes, counted.flatten(), config.entries)).mean()
        stats = {
            "accuracy": (correct.float().mean(dim=1) * is_masked.flatten()).sum(),
            "target_perplexity": used * weight,
        }
        return (losses.mean(dim=1) * weights.flatten()).sum(), stats, weight


class RandomQuantizer(nn.Module):
    """C random projections, and C codebooks of random directions; all frozen, kept with the weights.

    Args:
        dim: X, width of what is quantised.
        codebooks: C.
        entries: V.
        entry_dim: Q.
        seed: of the random numbers.
    """

    def __init__(self, dim: int, codebooks: int, entries: int, entry_dim: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        # Xavier's bound; the scale does not matter, as directions are compared.
        bound = (6 / (dim + entry_dim)) ** 0.5
        projection = torch.empty(dim, codebooks * entry_dim).uniform_(-bound, bound, generator=generator)
        directions = torch.randn(codebooks, entries, entry_dim, generator=generator)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", functional.normalize(directions, dim=-1))

    def project(self, features: Tensor) -> Tensor:
        """(..., X) to (..., C Q), in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ self.projection

    @torch.no_grad()
    def forward(self, projected: Tensor) -> Tensor:
        """Numbers (R, C) of the entries nearest in direction to projected features (R, C Q)."""
        codebooks, entries, width = self.codebooks.shape
        rows = projected.view(-1, codebooks, width).transpose(0, 1)
        nearest = []
        with torch.autocast(projected.device.type, enabled=False):
            for chunk in rows.split(max(1, SCORES_AT_ONCE // (codebooks * entries)), dim=1):
                # Entries have length 1: the nearest to a direction is the one of the largest product.
                nearest.append((chunk @ self.codebooks.mT).argmax(dim=-1))
        return torch.cat(nearest, dim=1).T


def first_middle(latent_lengths: Callable[[int], int], shift: int) -> float:
    """The sample on which an encoder's first frame is centred, by the least audio that gives a number of frames.

    An encoder may see more than that audio, by padding, but as much on either side.

    Args:
        latent_lengths: frames for a number of samples.
        shift: samples from one frame to the next.
    """
    # Several frames, as some encoders give one frame for next to nothing.
    frames = 10
    least = bisect_left(range(2 * frames * shift), frames, key=latent_lengths)
    return (least - (frames - 1) * shift) / 2


def stack(features: Tensor, start: int, size: int, frames: int) -> Tensor:
    """Neighbours side by side: frame t holds those from start + size * t, with 0 where there are none.

    Args:
        features: (B, T', F).
        start: may be negative.
        size: k.
        frames: T.

    Returns:
        (B, T, k F).
    """
    whole = functional.pad(features, (0, 0, -start, size * frames + start - features.shape[1]))
    return whole.reshape(len(features), frames, -1)

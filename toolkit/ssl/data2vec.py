"""Prediction of what a slowly moving teacher makes of the whole utterance (data2vec 2.0, arXiv 2212.07525).

The teacher has the student's form; its weights are a running average of the student's. It hears the audio as it is,
the student hears it with frames hidden and says what the teacher's upper layers hold there. Each utterance is encoded
once by the teacher and under several masks by the student.

Two things differ from the paper, so that any encoder can be used. Hidden frames are replaced by the mask embedding;
the paper leaves them out, which saves time, but not every encoder can do with gaps. And a layer's target is its
output, where the paper takes its feed-forward module's.

Dimensions: B utterances, M masks an utterance, T frames, E latent width, D encoder width, H decoder width.
"""

import copy
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import UserError
from toolkit.models.base import Encoder, SpeechEncoder
from toolkit.models.output import EncoderOutput
from toolkit.nn.dropout import Dropout
from toolkit.nn.masks import valid_mask
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.ssl.masking import MaskConfig, draw_mask, split
from toolkit.ssl.model import Objective

Targets = tuple[Tensor | None, Tensor]
"""Latents (B, T, E) for the teacher, None for the student's own, and their lengths (B,)."""


@dataclass
class Data2vecConfig:
    """Teacher, masks and decoder."""

    name: str = "data2vec"
    """Which objective this is."""
    top_layers: int = 8
    """How many of the teacher's last layers make the target."""
    layer_norm: bool = False
    """Normalise each frame of the target once the layers are averaged."""
    share_frontend: bool = True
    """The teacher takes the student's latents; false gives it a front end of its own."""
    decay: float = 0.999
    """Of the running average that the teacher is, at the first update."""
    final_decay: float = 0.99999
    """What the decay has risen to, in a straight line, after `decay_updates`."""
    decay_updates: int = 75_000
    """Updates until then."""
    masks: int = 8
    """M, masks an utterance."""
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(kind="block", prob=0.5, span=5, adjust=0.05))
    """What is hidden."""
    unmasked_weight: float = 0.0
    """Weight of the frames that are not masked, 0 in the paper. It keeps the upper layers from losing what these frames
    say before masked ones are foretold, which takes long."""
    decoder_dim: int = 384
    """H, width of the decoder's convolutions."""
    decoder_layers: int = 4
    """Convolutions of the decoder."""
    decoder_kernel: int = 7
    """Frames that each of them sees; odd."""
    decoder_groups: int = 16
    """Groups of channels that they keep apart; a divisor of the decoder's and the encoder's width."""
    decoder_dropout: float = 0.1
    """Dropout on what the decoder gets."""

    def __post_init__(self) -> None:
        sizes = ("top_layers", "masks", "decoder_dim", "decoder_layers", "decoder_kernel", "decoder_groups")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.decay <= self.final_decay <= 1 or self.decay_updates < 1:
            raise ValueError("0 <= decay <= final_decay <= 1 and decay_updates >= 1 are needed")
        if not self.mask.prob:
            raise ValueError("mask.prob must be positive")
        if self.unmasked_weight < 0:
            raise ValueError(f"unmasked_weight must not be negative, got {self.unmasked_weight}")
        if self.decoder_kernel % 2 == 0:
            raise ValueError(f"decoder_kernel must be odd, got {self.decoder_kernel}")
        if self.decoder_dim % self.decoder_groups:
            raise ValueError(
                f"decoder_dim must be a multiple of decoder_groups, got {self.decoder_dim} and {self.decoder_groups}"
            )
        if not 0 <= self.decoder_dropout < 1:
            raise ValueError(f"decoder_dropout must be in [0, 1), got {self.decoder_dropout}")


class Data2vecObjective(Objective, Clocked):
    """Squared distance between decoded student and averaged teacher, on masked frames; on others if they have a weight.

    The distance is the mean over the D dimensions, so that it can be held against the target's variance; the paper's
    is larger by the root of D, to which Adam is indifferent.

    Raises:
        UserError: more layers wanted than the encoder has, or a width that the groups do not divide.
    """

    Config = Data2vecConfig

    def __init__(self, config: Data2vecConfig, speech: SpeechEncoder) -> None:
        super().__init__()
        if config.top_layers > speech.num_layers:
            raise UserError(
                f"objective.top_layers: found {config.top_layers}, expected at most {speech.num_layers}, the "
                "encoder's layers"
            )
        if speech.dim % config.decoder_groups:
            raise UserError(
                f"objective.decoder_groups: found {config.decoder_groups}, expected a divisor of {speech.dim}, the "
                "encoder's width"
            )
        self.config = config
        self.layers = range(speech.num_layers + 1 - config.top_layers, speech.num_layers + 1)
        self.decay = Scheduled((0, config.decay), (config.decay_updates, config.final_decay))
        self.teacher = copy.deepcopy(self._taught(speech)).requires_grad_(False).eval()
        self.decoder = Decoder(config, speech.dim)

    def train(self, mode: bool = True) -> "Data2vecObjective":
        """As for any module, but that the teacher never trains."""
        super().train(mode)
        self.teacher.eval()
        return self

    def initialize(self, speech: SpeechEncoder) -> None:
        """The teacher begins where the student does."""
        self.teacher.load_state_dict(self._taught(speech).state_dict())

    def targets(self, speech: SpeechEncoder, waveforms: Tensor, lengths: Tensor, changed: bool) -> Targets:
        """What the teacher is to encode; nothing is computed twice where the student's latents will do."""
        if self.config.share_frontend and not changed:
            return None, speech.latent_lengths(lengths)
        source = speech if self.config.share_frontend else self.teacher
        with torch.no_grad():
            return source.latents(waveforms, lengths)

    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """(B * M, T) bool, True for hidden frames; see `draw_mask`."""
        masks = self.config.masks
        each = split(seeds, masks).flatten()
        return draw_mask(self.config.mask, lengths.repeat_interleave(masks), frames, each)

    def loss(
        self, output: EncoderOutput, targets: Targets, labels: None, mask: Tensor, seeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, variances, and the number of masked frames under all M masks.

        The variances, of target and prediction, are those over an utterance's masked frames, as a mean over D. A loss
        at the target's variance is what a constant gets; variances that go to zero are a collapse.
        """
        latents, lengths = targets
        wanted = self._wanted(output.latents.detach() if latents is None else latents, lengths)[:, None]
        decoded = self.decoder(output.frames, output.lengths).float().unflatten(0, (len(wanted), -1))
        valid = valid_mask(output.lengths, mask.shape[1]).view(decoded.shape[:3])
        hidden = mask.view(decoded.shape[:3]) & valid
        error = (decoded - wanted).square().mean(-1)
        weights = torch.where(hidden, 1.0, self.config.unmasked_weight) * valid
        stats = {
            "target_variance": variance(wanted, hidden),
            "prediction_variance": variance(decoded.detach(), hidden),
        }
        return (error * weights).sum(), stats, hidden.sum()

    @torch.no_grad()
    def after_update(self, speech: SpeechEncoder) -> None:
        """Moves the teacher towards the student."""
        student = [parameter.detach() for parameter in self._taught(speech).parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), student, 1 - self.decay(self.update))

    def _taught(self, speech: SpeechEncoder) -> nn.Module:
        """What the teacher is a copy of."""
        return speech.encoder if self.config.share_frontend else speech

    @torch.no_grad()
    def _wanted(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D): the mean of the teacher's upper layers, each normalised; 0 past an utterance's end."""
        encoder: Encoder = self.teacher if self.config.share_frontend else self.teacher.encoder
        output = encoder.encode(latents, lengths)
        valid = valid_mask(output.lengths, latents.shape[1])
        wanted = sum(instance_norm(output.layers[index].float(), valid) for index in self.layers)
        wanted = wanted / len(self.layers)
        return functional.layer_norm(wanted, wanted.shape[-1:]) if self.config.layer_norm else wanted


class Decoder(nn.Module):
    """Convolutions, each with norm, GELU and what it was given added, and a projection."""

    def __init__(self, config: Data2vecConfig, dim: int) -> None:
        super().__init__()
        kernel, groups = config.decoder_kernel, config.decoder_groups
        widths = [dim] + [config.decoder_dim] * config.decoder_layers
        self.dropout = Dropout(config.decoder_dropout)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, following, kernel, padding=kernel // 2, groups=groups)
            for width, following in pairwise(widths)
        )
        self.project = nn.Linear(config.decoder_dim, dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B * M, T, D) with lengths (B * M,) to (B * M, T, D)."""
        padding = ~valid_mask(lengths, x.shape[1])[:, :, None]
        x = self.dropout(x)
        for conv in self.convs:
            # Each convolution sees zeros past the end, as it would for the utterance alone.
            x = x.masked_fill(padding, 0.0)
            y = conv(x.transpose(1, 2)).transpose(1, 2)
            y = functional.gelu(functional.layer_norm(y, y.shape[-1:]))
            x = x + y if x.shape == y.shape else y
        return self.project(x)


def instance_norm(x: Tensor, valid: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance of each dimension over an utterance's own frames.

    Args:
        x: (B, T, D).
        valid: (B, T) bool, True for valid frames.
        eps: added to the variance.

    Returns:
        (B, T, D), 0 past an utterance's end.
    """
    padding, count = ~valid[:, :, None], valid.sum(1)[:, None, None].clamp(min=1)
    mean = x.masked_fill(padding, 0.0).sum(1, keepdim=True) / count
    centred = (x - mean).masked_fill(padding, 0.0)
    return centred * (centred.square().sum(1, keepdim=True) / count + eps).rsqrt()


def variance(x: Tensor, chosen: Tensor) -> Tensor:
    """Squared distance of chosen frames from their mean, as a mean over D, summed over frames.

    Args:
        x: (B, M, T, D), or (B, 1, T, D) for all M alike.
        chosen: (B, M, T) bool.
    """
    weights = chosen[..., None].to(x.dtype)
    mean = (x * weights).sum(2, keepdim=True) / weights.sum(2, keepdim=True).clamp(min=1)
    return ((x - mean).square().mean(-1) * chosen).sum()

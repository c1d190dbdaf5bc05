"""An encoder and the objective that teaches it.

Dimensions: B utterances, S samples, M masks an utterance, T frames, C label streams, D encoder width.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from toolkit.models.base import SpeechEncoder, SpeechModel
from toolkit.models.output import EncoderOutput


class Objective(nn.Module, ABC):
    """What is hidden from an encoder, what it has to tell of it, and how well it does: the contract of `OBJECTIVES`.

    Built as `Objective(config, speech)`; it may look at the encoder's sizes, or copy it, but does not keep it.
    """

    uses_labels: bool = False
    """Whether batches need frame labels."""

    def initialize(self, speech: SpeechEncoder) -> None:
        """Called once the encoder has the weights that it begins with; for teachers that begin as its copies."""

    def targets(self, speech: SpeechEncoder, waveforms: Tensor, lengths: Tensor, changed: bool) -> Any:
        """What `loss` needs of the audio as it was before the student's view was changed; None for nothing.

        Args:
            speech: the encoder that learns.
            waveforms: (B, S) samples.
            lengths: (B,) valid samples.
            changed: whether the student hears something else, so that its own latents do not serve as targets.
        """
        return None

    @abstractmethod
    def mask(self, lengths: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """Draws what is hidden, from each utterance's own seed and length alone.

        Args:
            lengths: (B,) valid latent frames.
            frames: T.
            seeds: (B,) int64.

        Returns:
            (B * M, T) bool, True where hidden; the M masks of an utterance in a row.
        """

    @abstractmethod
    def loss(
        self, output: EncoderOutput, targets: Any, labels: Tensor | None, mask: Tensor, seeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """How far off the encoder is, summed.

        Args:
            output: of the encoder, run with this mask.
            targets: what `targets` gave.
            labels: (B, T, C) int64, -1 where there is none; None if the objective uses none.
            mask: (B * M, T) bool.
            seeds: (B,) int64, for what else is drawn.

        Returns:
            The loss, statistics (each a sum, too), and the weight, usually the number of masked frames, by which they
            are to be divided.
        """

    def after_update(self, speech: SpeechEncoder) -> None:
        """Called once the optimiser has moved the weights; for teachers that follow the student."""


class SslModel(SpeechModel):
    """Hides frames from the encoder as the objective wants it, and asks for the loss."""

    def __init__(self, speech: SpeechEncoder, objective: Objective) -> None:
        super().__init__()
        self.speech = speech
        self.objective = objective

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        seeds: Tensor,
        labels: Tensor | None = None,
        views: Tensor | None = None,
        padded: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The objective's loss, statistics and weight; see `Objective.loss`.

        Args:
            waveforms: (B, S) samples, zero past an utterance's end.
            lengths: (B,) valid samples.
            seeds: (B,) int64, one an utterance, from which its mask is drawn.
            labels: (B, T', C) frame labels, of any number of frames, -1 where there is none.
            views: (B, S) what the encoder hears in place of `waveforms`, from which the targets are taken.
            padded: False if all lengths are known to be S; see `SpeechEncoder.forward`.
        """
        frames = self.speech.latent_lengths(waveforms.shape[1])
        targets = self.objective.targets(self.speech, waveforms, lengths, views is not None)
        mask = self.objective.mask(self.speech.latent_lengths(lengths), frames, seeds)
        output = self.speech(waveforms if views is None else views, lengths, mask, padded=padded)
        if labels is not None:
            labels = fit(labels, frames)
        return self.objective.loss(output, targets, labels, mask, seeds)


def fit(labels: Tensor, frames: int) -> Tensor:
    """Labels (B, T', C) cut or filled up with -1 to (B, frames, C)."""
    return nn.functional.pad(labels, (0, 0, 0, frames - labels.shape[1]), value=-1)

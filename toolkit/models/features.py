"""Features of a pretrained encoder, for models of your own.

Dimensions: B batch, S samples, T encoder frames, D encoder width, L layers.
"""

import torch
from torch import Tensor, nn

from toolkit.models.base import SpeechEncoder, check_lengths
from toolkit.nn.pooling import WeightedLayerSum


class PretrainedFeatures(nn.Module):
    """A learned weighted sum of all layers of an encoder.

    Args:
        speech: the encoder.
        frozen: True to learn nothing but the weights of the sum: the encoder stays in eval mode, without gradients.
            False to fine-tune the encoder as well.

    Attributes:
        dim: D, the width of a frame.
        frame_shift: seconds from one frame to the next.
    """

    def __init__(self, speech: SpeechEncoder, frozen: bool = True) -> None:
        super().__init__()
        self.speech = speech
        self.frozen = frozen
        self.layer_sum = WeightedLayerSum(speech.num_layers + 1)
        self.dim = speech.dim
        self.frame_shift = speech.frame_shift
        if frozen:
            speech.requires_grad_(False).eval()
        else:
            # It stands for frames that pretraining hides; here none is, and it would never get a gradient.
            speech.encoder.mask_embedding.requires_grad_(False)

    def train(self, mode: bool = True) -> "PretrainedFeatures":
        """As for any module, but that a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.speech.eval()
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms to frames.

        Args:
            waveforms: (B, S) samples in [-1, 1] at the encoder's rate.
            lengths: (B,) int64 valid samples.

        Returns:
            (B, T, D) frames, which hold arbitrary values past an utterance's length, and the lengths (B,) int64.

        Raises:
            ValueError: lengths on the CPU are more than S; those on a GPU are not looked at, as it would have to be
                waited for.
        """
        check_lengths(waveforms, lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self.speech(waveforms, lengths)
        return self.layer_sum(output.layers), output.lengths

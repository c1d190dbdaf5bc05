"""Speech recognition: an encoder with a CTC head, a transducer, an attention decoder, or several of them.

Dimensions: B utterances, S samples, T frames, U symbols of a transcript, D encoder width, V symbols.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from toolkit.models.attention_decoder import AttentionConfig, AttentionDecoder
from toolkit.models.base import Augment, SpeechEncoder, SpeechModel
from toolkit.models.transducer import Transducer, TransducerConfig, TransducerOutput
from toolkit.nn.dropout import Dropout


@dataclass
class CtcConfig:
    """The CTC head."""

    scale: float = 1.0
    """Of its loss in the sum; 0 for a model without it."""
    dropout: float = 0.1
    """Dropout before the output layer."""
    consistency: float = 0.0
    """Of the distance between what two differently augmented copies of an utterance give (CR-CTC); 0 for one copy."""

    def __post_init__(self) -> None:
        for name in ("scale", "consistency"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class AsrOutput(NamedTuple):
    """What the losses need; None for heads that the model has not."""

    lengths: Tensor
    """(B,) valid frames."""
    log_probs: Tensor | None
    """(B, T, V) float32 of the CTC head; symbol 0 is the blank."""
    transducer: TransducerOutput | None
    """Of the transducer."""
    logits: Tensor | None
    """(B, U + 1, V) of the attention decoder."""


class AsrModel(SpeechModel):
    """An encoder and up to three heads over the same symbols.

    Attributes:
        ctc: dropout and a linear layer over the symbols, or None.
        transducer: predictor and joiner, or None.
        attention: the attention decoder, or None.
    """

    def __init__(
        self,
        speech: SpeechEncoder,
        num_symbols: int,
        ctc: CtcConfig,
        transducer: TransducerConfig,
        attention: AttentionConfig,
    ) -> None:
        super().__init__()
        self.speech = speech
        self.num_symbols = num_symbols
        self.ctc = self.transducer = self.attention = None
        if ctc.scale:
            self.ctc = nn.Sequential(Dropout(ctc.dropout), nn.Linear(speech.dim, num_symbols))
        if transducer.scale:
            self.transducer = Transducer(transducer, speech.dim, num_symbols)
        if attention.scale:
            self.attention = AttentionDecoder(attention, speech.dim, num_symbols)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        augment: Augment | None = None,
        channels: Tensor | None = None,
    ) -> AsrOutput:
        """(B, S) samples, (B,) lengths and (B, U) symbols padded with 0; the rest is as in `SpeechEncoder.forward`."""
        output = self.speech(waveforms, lengths, mask, augment, channels)
        frames = output.frames
        return AsrOutput(
            output.lengths,
            self.ctc_log_probs(frames) if self.ctc is not None else None,
            self.transducer(frames, tokens) if self.transducer is not None else None,
            self.attention(frames, output.lengths, tokens) if self.attention is not None else None,
        )

    def ctc_log_probs(self, frames: Tensor) -> Tensor:
        """(B, T, D) frames of the encoder to (B, T, V) float32 log-probabilities of the CTC head."""
        return self.ctc(frames).float().log_softmax(dim=-1)

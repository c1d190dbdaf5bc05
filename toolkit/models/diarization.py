"""Speaker segmentation: who of a few local speakers talks in each frame of a chunk.

Dimensions: B batch, S samples, T encoder frames, D encoder width, H head width, K local speakers, C powerset
    classes.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from toolkit.losses.powerset import Powerset
from toolkit.models.base import SpeechEncoder, SpeechModel
from toolkit.models.conformer import ConformerConfig, ConformerLayer
from toolkit.nn.attention import rotary_table
from toolkit.nn.masks import valid_mask
from toolkit.nn.pooling import WeightedLayerSum


@dataclass
class DiarizationHeadConfig:
    """Sizes of the head: weighted layer sum, projection, Conformer layers, powerset classes.

    Source of the shape: Han et al. 2025, "Leveraging self-supervised learning for speaker diarization".
    """

    num_speakers: int = 3
    """K, most speakers in a chunk, at most 4."""
    max_simultaneous: int = 2
    """Most speakers at the same time."""
    hidden_dim: int = 256
    """H, width of the head."""
    num_layers: int = 2
    """Conformer layers of the head."""
    num_heads: int = 4
    """Attention heads of the head."""
    feed_forward_dim: int = 512
    """Width inside the head's feed-forward modules."""
    kernel_size: int = 15
    """Frames that the head's convolutions see; odd."""
    dropout: float = 0.1
    """Dropout in the head."""

    def __post_init__(self) -> None:
        Powerset(self.num_speakers, self.max_simultaneous)
        self.layer()

    def layer(self) -> ConformerConfig:
        """The sizes of a layer, in the terms of an encoder."""
        return ConformerConfig(
            dim=self.hidden_dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            feed_forward_dim=self.feed_forward_dim,
            kernel_size=self.kernel_size,
            dropout=self.dropout,
        )


class DiarizationModel(SpeechModel):
    """Scores, for each frame, every set of speakers who may be talking.

    Args:
        speech: the encoder.
        config: sizes of the head.

    Attributes:
        powerset: the classes.
        frame_shift: seconds from one output frame to the next; frame t covers [t, t + 1) * frame_shift.
    """

    def __init__(self, speech: SpeechEncoder, config: DiarizationHeadConfig) -> None:
        super().__init__()
        self.speech = speech
        self.powerset = Powerset(config.num_speakers, config.max_simultaneous)
        self.frame_shift = speech.frame_shift
        self.head_width = config.hidden_dim // config.num_heads
        self.layer_sum = WeightedLayerSum(speech.num_layers + 1)
        self.projection = nn.Sequential(
            nn.LayerNorm(speech.dim),
            nn.Linear(speech.dim, config.hidden_dim),
            nn.LayerNorm(config.hidden_dim),
        )
        self.layers = nn.ModuleList(ConformerLayer(config.layer()) for _ in range(config.num_layers))
        self.output = nn.Linear(config.hidden_dim, self.powerset.num_classes)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) samples and (B,) lengths to (B, T, C) float32 log-probabilities and (B,) frame counts."""
        encoded = self.speech(waveforms, lengths)
        x = self.projection(self.layer_sum(encoded.layers))
        valid = valid_mask(encoded.lengths, x.shape[1])
        rotation = rotary_table(x.shape[1], self.head_width, x.device)
        for layer in self.layers:
            x = layer(x, rotation, valid)
        return self.output(x).float().log_softmax(-1), encoded.lengths

    def probabilities(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but with the probability that each local speaker talks, (B, T, K)."""
        log_probs, frames = self(waveforms, lengths)
        return self.powerset.marginals(log_probs), frames

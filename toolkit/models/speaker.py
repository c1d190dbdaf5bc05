"""Speaker encoder: one embedding an utterance.

Dimensions: B batch, S samples, T encoder frames, D encoder width, H head width, E embedding size, C speakers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.losses.margin import cosine_similarity
from toolkit.models.base import SpeechEncoder, SpeechModel
from toolkit.nn.dropout import Dropout
from toolkit.nn.pooling import AttentiveStatisticsPooling, WeightedLayerSum


@dataclass
class SpeakerHeadConfig:
    """Sizes of the head: weighted layer sum, projection, attentive statistics, embedding."""

    hidden_dim: int = 256
    """H, width of the frames that are pooled."""
    attention_dim: int = 64
    """Width of the network that weights the frames."""
    embedding_dim: int = 192
    """E, size of an embedding."""
    dropout: float = 0.1
    """Dropout on the pooled statistics."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "attention_dim", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class SpeakerModel(SpeechModel):
    """Embeds utterances; in training, compares the embeddings with a direction for each known speaker.

    Args:
        speech: the encoder.
        config: sizes of the head.
        num_speakers: C, speakers of the training data.
    """

    def __init__(self, speech: SpeechEncoder, config: SpeakerHeadConfig, num_speakers: int) -> None:
        super().__init__()
        self.speech = speech
        self.layer_sum = WeightedLayerSum(speech.num_layers + 1)
        self.projection = nn.Sequential(
            nn.LayerNorm(speech.dim), nn.Linear(speech.dim, config.hidden_dim), nn.ReLU()
        )
        self.pooling = AttentiveStatisticsPooling(config.hidden_dim, config.attention_dim)
        self.embedding = nn.Sequential(
            nn.LayerNorm(self.pooling.output_dim),
            Dropout(config.dropout),
            nn.Linear(self.pooling.output_dim, config.embedding_dim),
        )
        self.embedding_dim = config.embedding_dim
        self.speakers = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_speakers, config.embedding_dim)))

    def embed(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) samples and (B,) lengths to (B, E) embeddings of any scale; compare their cosines."""
        output = self.speech(waveforms, lengths)
        frames = self.projection(self.layer_sum(output.layers))
        return self.embedding(self.pooling(frames, output.lengths))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(B, S) samples and (B,) lengths to the cosine with each training speaker, (B, C) float32."""
        return cosine_similarity(self.embed(waveforms, lengths), self.speakers)

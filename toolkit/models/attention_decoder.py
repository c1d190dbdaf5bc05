"""An attention decoder: the next symbol from those before it and all frames (Chan et al. 2016, arXiv 1706.03762).

Symbol 0, elsewhere the blank, stands for start and end of a sentence.

Dimensions: B utterances, T frames, U symbols of a transcript, D encoder width, E decoder width, V symbols.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.nn.masks import valid_mask


@dataclass
class AttentionConfig:
    """The attention decoder."""

    scale: float = 0.0
    """Of its loss in the sum; 0 for a model without it."""
    dim: int = 512
    """E."""
    num_layers: int = 6
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads."""
    feed_forward_dim: int = 2048
    """Width within the feed-forward networks."""
    dropout: float = 0.1
    """Dropout of embeddings and in the layers."""
    label_smoothing: float = 0.1
    """Share of the probability that is spread over all symbols."""

    def __post_init__(self) -> None:
        if (
            not self.scale >= 0
            or self.num_layers < 1
            or self.num_heads < 1
            or self.dim % (2 * self.num_heads)
        ):
            raise ValueError(
                "scale must not be negative, num_layers and num_heads at least 1 and dim a multiple of 2 * num_heads, "
                f"got {self.scale}, {self.num_layers}, {self.num_heads} and {self.dim}"
            )
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


class AttentionDecoder(nn.Module):
    """Embeddings with sinusoidal positions and a Transformer decoder with norms first."""

    def __init__(self, config: AttentionConfig, encoder_dim: int, num_symbols: int) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_dim, config.dim)
        self.embedding = nn.Embedding(num_symbols, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        layer = nn.TransformerDecoderLayer(
            config.dim,
            config.num_heads,
            config.feed_forward_dim,
            config.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, config.num_layers, nn.LayerNorm(config.dim))
        self.output = nn.Linear(config.dim, num_symbols)

    def forward(self, frames: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Logits of every next symbol of known transcripts.

        Args:
            frames: (B, T, D) of the encoder.
            lengths: (B,) valid frames, at least 1.
            tokens: (B, U), padded with 0.

        Returns:
            (B, U + 1, V): after none of them, after one, and so on.
        """
        inputs = nn.functional.pad(tokens, (1, 0))
        count = inputs.shape[1]
        x = self.embedding(inputs) * self.embedding.embedding_dim**0.5
        x = self.dropout(x + sinusoids(count, x.shape[2], x.device))
        later = torch.ones(count, count, dtype=torch.bool, device=x.device).triu(1)
        x = self.decoder(
            x,
            self.project(frames),
            tgt_mask=later,
            memory_key_padding_mask=~valid_mask(lengths, frames.shape[1]),
            tgt_is_causal=True,
        )
        return self.output(x)


def sinusoids(count: int, dim: int, device: torch.device) -> Tensor:
    """(count, dim) sines and cosines of positions (arXiv 1706.03762, section 3.5)."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(count, device=device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)

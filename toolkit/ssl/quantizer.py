"""Product quantiser with Gumbel softmax (wav2vec 2.0, arXiv 2006.11477, section 2).

Dimensions: B utterances, T frames, N frames of all of them, E latent width, G groups, V entries a group, Q width of a
codevector.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.nn.masks import valid_mask


class Quantized(NamedTuple):
    """What the quantiser made of N frames."""

    vectors: Tensor
    """(N, Q) the chosen entries of all groups, side by side."""
    codes: Tensor
    """(N, G) int64 numbers of the chosen entries."""
    probs: Tensor
    """(N, G, V) softmax of the scores, without noise or temperature."""


class GumbelQuantizer(nn.Module):
    """Picks one entry in each of G codebooks of V entries, so that V ** G codevectors can be told apart.

    In training the choice is random, by Gumbel noise, and passes gradients as if it were the softmax of the noisy
    scores over the temperature (straight through); otherwise the highest score wins.

    Args:
        latent_dim: E.
        groups: G.
        entries: V.
        dim: Q, a multiple of G.
    """

    def __init__(self, latent_dim: int, groups: int, entries: int, dim: int) -> None:
        super().__init__()
        self.scores = nn.Linear(latent_dim, groups * entries)
        # Narrow scores would leave the choice to the noise.
        nn.init.normal_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)
        self.codebooks = nn.Parameter(torch.empty(groups, entries, dim // groups).uniform_())

    def forward(self, latents: Tensor, temperature: float, noise: Tensor | None = None) -> Quantized:
        """Quantises frames.

        Args:
            latents: (N, E).
            temperature: of the softmax through which gradients flow, above 0.
            noise: (N, G, V) what is added to the scores; by default Gumbel noise in training, else nothing.
        """
        groups, entries, _ = self.codebooks.shape
        scores = self.scores(latents).float().view(-1, groups, entries)
        if noise is None and self.training:
            noise = -torch.empty_like(scores).exponential_().log()
        noisy = scores if noise is None else scores + noise
        codes = noisy.argmax(dim=-1)
        choice = nn.functional.one_hot(codes, entries).to(scores.dtype)
        if self.training:
            soft = (noisy / temperature).softmax(dim=-1)
            # The bracket is exactly 0: only gradients pass.
            choice = choice + (soft - soft.detach())
        vectors = torch.einsum("ngv,gvd->ngd", choice.to(self.codebooks.dtype), self.codebooks)
        return Quantized(vectors.flatten(1), codes, scores.softmax(dim=-1))


def perplexity(shares: Tensor) -> Tensor:
    """exp(entropy) of distributions: the number of entries in use, if all of these were used alike.

    Args:
        shares: (..., V), each row sums to 1.

    Returns:
        (...), from 1 to V.
    """
    # The slope of p log p at 0 is infinite, and 0 * inf would be NaN.
    return (-(shares * shares.clamp(min=1e-20).log()).sum(dim=-1)).exp()


def usage(codes: Tensor, weights: Tensor, entries: int) -> Tensor:
    """How often each entry of each codebook was chosen.

    Args:
        codes: (N, G) int64, from 0 to V - 1.
        weights: (N,) what each frame counts.
        entries: V.

    Returns:
        (G, V) float32 shares, 0 where nothing counts.
    """
    groups = codes.shape[1]
    counts = weights.new_zeros(groups, entries, dtype=torch.float32)
    counts = counts.scatter_add(1, codes.T, weights.float().expand(groups, -1))
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0)


def standardize(features: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance of each dimension over the utterance; 0 past its end.

    Args:
        features: (B, T, E), whatever they are past an utterance's end.
        lengths: (B,).
    """
    valid = valid_mask(lengths, features.shape[1])[:, :, None]
    count = lengths.clamp(min=1)[:, None, None]
    mean = features.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True) / count
    centred = (features - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    # Before the root, whose slope at 0 is infinite.
    return centred * variance.clamp(min=1e-6).rsqrt()

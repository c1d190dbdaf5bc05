"""A Transformer over a sequence of symbols, for all of it at once or one symbol after the other.

Dimensions: B sequences, U symbols, D width, L layers, H heads, C = D / H, N hypotheses.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from toolkit.nn.attention import rotary_table, rotate
from toolkit.nn.dropout import Dropout

CausalState = tuple[Tensor, Tensor]
"""Keys and values (N, L, 2, H, U, C), and (N,) int64 how many of the U are there."""
TRIM_EVERY = 32
"""Places of the cache between two looks at how many of them are needed, for which a GPU is waited for."""


class CausalLayer(nn.Module):
    """Attention to what went before, then a feed-forward network, each with a norm before it."""

    def __init__(self, dim: int, num_heads: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, feed_forward_dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(feed_forward_dim, dim),
        )
        self.dropout = Dropout(dropout)

    def project(self, x: Tensor) -> Tensor:
        """(B, U, D) to queries, keys and values (3, B, H, U, C)."""
        batch, count, dim = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, count, 3, self.num_heads, dim // self.num_heads)
        return qkv.permute(2, 0, 3, 1, 4)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds what was attended to, (B, H, U, C), and the feed-forward network's output to x (B, U, D)."""
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(x.shape)))
        return x + self.dropout(self.feed_forward(x))


class CausalTransformer(nn.Module):
    """L layers with rotary positions (arXiv 2104.09864) and a final norm."""

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, feed_forward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {dim} and {num_heads}")
        self.dim, self.width, self.num_heads = dim, dim // num_heads, num_heads
        self.layers = nn.ModuleList(
            CausalLayer(dim, num_heads, feed_forward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, U, D) to (B, U, D); no row sees those after it."""
        rotation = rotary_table(x.shape[1], self.width, x.device)
        for layer in self.layers:
            query, key, value = layer.project(x)
            attended = scaled_dot_product_attention(
                rotate(query, rotation), rotate(key, rotation), value, is_causal=True
            )
            x = layer.finish(x, attended)
        return self.norm(x)

    def initial_state(self, batch: int, device: torch.device | str) -> CausalState:
        """Before the first symbol."""
        weight = self.norm.weight
        shape = batch, len(self.layers), 2, self.num_heads, 0, self.width
        return weight.new_zeros(shape, device=device), torch.zeros(batch, dtype=torch.int64, device=device)

    def step(self, x: Tensor, new: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """One more symbol for some hypotheses.

        Args:
            x: (N, D).
            new: (N,) bool; the output of other rows means nothing, and their state stays.
            state: of all of them.

        Returns:
            (N, D) and the new state.
        """
        cache, counts = state
        if cache.shape[4] and cache.shape[4] % TRIM_EVERY == 0:
            # Every step adds a place, also where few rows have a new symbol.
            cache = cache[..., : int(counts.max()), :]
        cache = pad(cache, (0, 0, 0, 1))
        size, rows = cache.shape[4], torch.arange(len(x), device=x.device)
        visible = (torch.arange(size, device=x.device) <= counts[:, None])[:, None, None]
        cosines, sines = (table[counts][:, None, None] for table in rotary_table(size, self.width, x.device))
        x = x[:, None]
        for index, layer in enumerate(self.layers):
            query, key, value = layer.project(x)
            # Where nothing is new this lies behind what counts, and is overwritten by what comes next.
            cache[rows, index, 0, :, counts] = rotate(key, (cosines, sines))[:, :, 0]
            cache[rows, index, 1, :, counts] = value[:, :, 0]
            keys, values = cache[:, index].unbind(1)
            attended = scaled_dot_product_attention(
                rotate(query, (cosines, sines)), keys, values, attn_mask=visible
            )
            x = layer.finish(x, attended)
        return self.norm(x[:, 0]), (cache, counts + new)

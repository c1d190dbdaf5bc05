"""Small trained parts within a network that stays as it is: low-rank changes of linear layers, and adapters.

Both begin as nothing: the network computes at first what it did without them.

Dimensions: C input channels, D output channels or width, R rank, A width of an adapter.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from toolkit.nn.dropout import Dropout
from toolkit.nn.swoosh import SwooshLinear, swoosh_l, swoosh_r


class LowRank(nn.Module):
    """x -> scale * up(down(dropout(x))), the change that LoRA adds to a linear layer (arXiv 2106.09685, section 4.1).

    Args:
        layer: the linear layer, from C to D.
        rank: R.
        scale: alpha / R.
        dropout: of what goes in.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = Dropout(dropout)
        self.down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., D)."""
        return linear(linear(self.dropout(x), self.down), self.up) * self.scale


def merged_weight(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The weight (D, C) of a linear layer that does alone what one with a `LowRank` does."""
    return weight + scale * (up @ down)


class LoraLinear(nn.Linear):
    """A linear layer, whose parameters keep their names, plus a low-rank change."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora = LowRank(layer, rank, scale, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., D)."""
        return super().forward(x) + self.lora(x)

    def merged(self) -> nn.Linear:
        """One layer that does the same."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        return _with_parameters(layer, self)


class LoraSwooshLinear(SwooshLinear):
    """The same for a linear layer with an activation before it: what is changed is the linear layer."""

    def __init__(self, layer: SwooshLinear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.kind)
        self.weight, self.bias = layer.weight, layer.bias
        self.lora = LowRank(layer, rank, scale, dropout)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(..., C) to (..., D); see `SwooshLinear`."""
        active = swoosh_l(x) if self.kind == "left" else swoosh_r(x)
        return super().forward(x, keep) + self.lora(active if keep is None else active * keep.to(x.dtype))

    def merged(self) -> SwooshLinear:
        """One layer that does the same."""
        return _with_parameters(SwooshLinear(self.in_features, self.out_features, self.kind), self)


def _with_parameters(layer: nn.Linear, changed: LoraLinear | LoraSwooshLinear) -> nn.Linear:
    lora = changed.lora
    weight = merged_weight(changed.weight.detach(), lora.down.detach(), lora.up.detach(), lora.scale)
    layer.weight, layer.bias = nn.Parameter(weight), changed.bias
    return layer


class AdapterSlot(nn.Identity):
    """The place in a layer where an adapter may come; until then it passes on what it is given.

    Args:
        dim: D, the width of the layer.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


class Adapter(nn.Module):
    """x + up(gelu(down(norm(x)))), a bottleneck at the end of a layer (arXiv 1902.00751, 1909.08478)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return x + self.up(gelu(self.down(self.norm(x))))

"""A stack of Zipformer layers at its own frame rate.

Dimensions: B batch, T frames, D width, R frames that are taken for one, G = T / R.
"""

import torch
from torch import Tensor, nn

from toolkit.models.zipformer.config import StackSizes
from toolkit.models.zipformer.context import Context
from toolkit.models.zipformer.layer import Bypass, LayerState, ZipformerLayer
from toolkit.nn.dropout import Dropout
from toolkit.nn.masks import valid_mask
from toolkit.nn.scheduled import Scheduled

FINAL_SKIP = 0.035
"""Share of utterances that skip a layer late in training, times the square root of R."""


class Downsample(nn.Module):
    """Each R frames become their weighted mean; the weights are learned and alike for all channels."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.logits = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Takes frames together.

        Args:
            x: (B, T, D), T a multiple of R.
            lengths: (B,) valid frames. Where an utterance ends within R frames, its last one stands for the rest.

        Returns:
            (B, G, D), 0 past the ceil(length / R) frames that exist.
        """
        weights = self.logits.softmax(0)
        # The last frame's weight is its own and that of all that would follow within the R frames.
        rest = weights.flip(0).cumsum(0).flip(0)
        last = torch.arange(x.shape[1], device=x.device) == lengths[:, None] - 1
        groups = x.shape[1] // self.factor
        full = torch.where(last, rest.repeat(groups), weights.repeat(groups))
        full = full * valid_mask(lengths, x.shape[1])
        grouped = full.view(-1, 1, self.factor).to(x.dtype) @ x.reshape(-1, self.factor, x.shape[2])
        return grouped.view(x.shape[0], -1, x.shape[2])


class Stack(nn.Module):
    """Downsampling, layers, upsampling by repetition, and a bypass around all of it; layers alone where R is 1.

    Args:
        sizes: of the stack.
        pos_dim: width of a position's encoding.
        causal: whether convolutions are.
        dropout: in feed-forward modules.
        warm_up: updates within which the layers, one after the other, come to be skipped seldom.
    """

    def __init__(
        self,
        sizes: StackSizes,
        pos_dim: int,
        causal: bool,
        dropout: Scheduled,
        warm_up: tuple[float, float],
    ) -> None:
        super().__init__()
        self.factor = sizes.downsampling
        self.position_dropout = Dropout(0.15)
        final = FINAL_SKIP * self.factor**0.5
        start, step = warm_up[0], (warm_up[1] - warm_up[0]) / sizes.num_layers
        skips = [
            Scheduled((start + i * step, 0.5), (start + (i + 1) * step, final))
            for i in range(sizes.num_layers)
        ]
        self.layers = nn.ModuleList(ZipformerLayer(sizes, pos_dim, causal, dropout, skip) for skip in skips)
        self.downsample = Downsample(self.factor) if self.factor > 1 else None
        self.combine = Bypass(sizes.dim) if self.factor > 1 else None

    def forward(self, x: Tensor, lengths: Tensor, context: Context) -> Tensor:
        """(B, T, D), T a multiple of R, and (B,) valid frames to (B, T, D); the context is that of G frames."""
        before = x
        if self.downsample is not None:
            x = self.downsample(x, lengths)
        if context.keep is not None:
            x = x * context.keep
        context = context._replace(positions=self.position_dropout(context.positions))
        for layer in self.layers:
            x = layer(x, context)
        return self._combined(before, x)

    def stream(
        self, x: Tensor, lengths: Tensor, context: Context, states: list[LayerState]
    ) -> tuple[Tensor, list[LayerState]]:
        """`forward` for one chunk, with what each layer keeps."""
        before, kept = x, []
        if self.downsample is not None:
            x = self.downsample(x, lengths)
        for layer, state in zip(self.layers, states, strict=True):
            x, new = layer.stream(x, context, state)
            kept.append(new)
        return self._combined(before, x), kept

    def _combined(self, before: Tensor, x: Tensor) -> Tensor:
        if self.combine is None:
            return x
        grouped = before.view(before.shape[0], -1, self.factor, before.shape[2])
        return self.combine(grouped, x[:, :, None]).flatten(1, 2)

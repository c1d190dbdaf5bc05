"""The convolutions in front of Zipformer: from 100 to 50 frames a second, with a ConvNeXt block.

Dimensions: B batch, T feature frames, F features, T' output frames, F' = about F / 4, C channels, D output width.
"""

import torch
from torch import Tensor, nn

from toolkit.errors import UserError
from toolkit.nn.biasnorm import BiasNorm
from toolkit.nn.gradients import scale_gradient
from toolkit.nn.masks import valid_mask
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.nn.shaping import Balancer, Whiten
from toolkit.nn.swoosh import SwooshLinear, swoosh_r

CHANNELS = (8, 32, 128)
SEEN = 7
"""Feature frames that an output frame sees, less the two that it stands for."""
LEAST_FRAMES = SEEN + 2
"""Feature frames that give one output frame; fewer are filled up with zeros."""
REACH = 3
"""Output frames on each side that the ConvNeXt block sees."""
LEAST_FEATURES = 7


class Conv2dSubsampling(nn.Module):
    """Three convolutions, ConvNeXt, linear layer, BiasNorm; T' = (T - 7) // 2.

    Time has no padding, so that every output frame sees real frames only; in the ConvNeXt block, zeros lie beyond both
    ends of an utterance, as they would if it were alone.
    """

    def __init__(self, num_features: int, dim: int) -> None:
        super().__init__()
        if num_features < LEAST_FEATURES:
            raise UserError(f"at least {LEAST_FEATURES} features are needed, got {num_features}")
        first, second, third = CHANNELS
        self.width = ((num_features - 1) // 2 - 1) // 2
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, first, 3, padding=(0, 1)),
                nn.Conv2d(first, second, 3, stride=2),
                nn.Conv2d(second, third, 3, stride=(1, 2)),
            ]
        )
        self.convs.to(memory_format=torch.channels_last)
        self.balancers = nn.ModuleList(Balancer(max_abs=bound) for bound in (1.0, 4.0, 4.0))
        self.convnext = ConvNeXt(third)
        self.out = nn.Linear(self.width * third, dim)
        self.whiten = Whiten(Scheduled((0, 4.0), (20000, 8.0)), strength=0.02)
        self.norm = BiasNorm(dim)

    # For the reasons for which the stacks are not compiled.
    @torch.compiler.disable
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) and (B,) valid frames to (B, T', D) and theirs."""
        x = x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None], 0.0)
        x = nn.functional.pad(x, (0, 0, 0, max(0, LEAST_FRAMES - x.shape[1])))
        lengths = output_lengths(lengths)
        return self._project(self.convnext(self._convolve(x), lengths)), lengths

    def stream(self, x: Tensor, lengths: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk of `forward`.

        Args:
            x: (B, 2 * chunk + 13, F).
            lengths: (B,) output frames that exist among the chunk's and the 3 after it.
            cached: (B, C, 3, F') what the ConvNeXt block keeps of the chunk before, 0 at first.

        Returns:
            (B, chunk, D), and what is to be kept.
        """
        x, cached = self.convnext.stream(self._convolve(x), lengths, cached)
        return self._project(x), cached

    def _convolve(self, x: Tensor) -> Tensor:
        """(B, T, F) to (B, T', F', C)."""
        x = x[:, None].contiguous(memory_format=torch.channels_last)
        for index, (conv, balancer) in enumerate(zip(self.convs, self.balancers, strict=True)):
            x = conv(x)
            if index == 0 and self.training:
                # The first layer's gradients, summed over so many places, would leave the range of float16.
                x = scale_gradient(x, 0.2)
            x = x.permute(0, 2, 3, 1)
            x = swoosh_r(balancer(x)).permute(0, 3, 1, 2)
        return x.permute(0, 2, 3, 1)

    def _project(self, x: Tensor) -> Tensor:
        return self.norm(self.whiten(self.out(x.flatten(2))))


class ConvNeXt(nn.Module, Clocked):
    """Depthwise 7 x 7 convolution and two pointwise layers, added to their input (arXiv 2206.14747)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 2 * REACH + 1, groups=dim)
        self.depthwise.to(memory_format=torch.channels_last)
        self.expand = nn.Linear(dim, 3 * dim)
        self.out = SwooshLinear(3 * dim, dim, "left", scale=0.01)
        self.balancer_hidden = Balancer(0.3, 1.0, 0.75, 5.0)
        self.balancer = Balancer(0.4, 0.6, 1.0, 6.0)
        self.whiten = Whiten(5.0)
        self.skip = Scheduled((0, 0.2), (20000, 0.015))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T', F', C) and (B,) valid frames to (B, T', F', C)."""
        x = x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None, None], 0.0)
        change = self._change(x, REACH)
        if self.training and (rate := self.now(self.skip)) > 0:
            change = change * (torch.rand(len(x), 1, 1, 1, device=x.device) > rate)
        return self.whiten(self.balancer(x + change))

    def stream(self, x: Tensor, lengths: Tensor, cached: Tensor) -> tuple[Tensor, Tensor]:
        """(B, chunk + 3, F', C), its valid frames and the 3 before it to (B, chunk, F', C) and those to keep."""
        x = x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None, None], 0.0)
        chunk = x.shape[1] - REACH
        around = torch.cat([cached.permute(0, 2, 3, 1), x], dim=1)
        kept = around[:, chunk : chunk + REACH].permute(0, 3, 1, 2)
        return x[:, :chunk] + self._change(around, 0), kept

    def _change(self, x: Tensor, padding: int) -> Tensor:
        convolved = nn.functional.conv2d(
            x.permute(0, 3, 1, 2),
            self.depthwise.weight,
            self.depthwise.bias,
            padding=(padding, REACH),
            groups=self.depthwise.groups,
        ).permute(0, 2, 3, 1)
        return self.out(self.balancer_hidden(self.expand(convolved)))


def output_lengths(lengths: int | Tensor) -> int | Tensor:
    """T' for a number of feature frames, or for each of (B,) int64; at least 1."""
    least = lengths.clamp(min=LEAST_FRAMES) if isinstance(lengths, Tensor) else max(lengths, LEAST_FRAMES)
    return (least - SEEN) // 2

"""The Zipformer encoder: stacks at different frame rates (Yao et al. 2023, arXiv 2310.11230).

Dimensions: B batch, F features, T'' feature frames, T' frames of the stacks, T output frames, E width of latents, D0
width of the first stack, D greatest width of a stack, L stacks.
"""

import math
from collections.abc import Callable, Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.errors import UserError
from toolkit.models.output import EncoderOutput
from toolkit.models.zipformer.config import ZipformerConfig
from toolkit.models.zipformer.context import Context, make_context
from toolkit.models.zipformer.stack import Downsample, Stack
from toolkit.nn.masks import valid_mask
from toolkit.nn.scheduled import Clocked, Scheduled
from toolkit.nn.subsampling import Conv2dSubsampling
from toolkit.nn.subsampling import output_lengths as convolved_lengths

WARM_UP = 4000.0
"""Batches within which the layers of all stacks, one after the other, come to be skipped seldom."""
CHANNEL_DROP = 0.125
"""Share of utterances that do without the upper channels, and again of those left that do without the uppermost."""


class ZipformerEncoder(nn.Module, Clocked):
    """What turns features into the first stack's frames, and the stacks.

    The latents are what `embed` gives: frames after the convolutions ("conv2d"), normalised features ("linear"; of
    several frames, "stack"), or the features themselves ("none"). A mask hides frames of width D0, after dropout.

    The stacks are not compiled: chance decides in every layer what is done, and each combination would be a program of
    its own. Besides, PyTorch 2.11's compiler takes the gradient of an autograd function to be zero if it returns a
    tensor that it changed in place.
    """

    Config = ZipformerConfig

    def __init__(self, config: ZipformerConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        first = config.stacks[0].dim
        if config.embed == "none" and num_features != first:
            raise UserError(f"embed: none needs features of width {first} as dims says, got {num_features}")
        self.dim = max(sizes.dim for sizes in config.stacks)
        joined = num_features * (config.stacked_frames if config.embed == "stack" else 1)
        linear = config.embed in ("stack", "linear")
        self.latent_dim = joined if linear else first
        self.num_layers = len(config.downsampling)
        self.subsampling = config.output_downsampling * config.embed_downsampling
        self.dropout = Scheduled((0, config.dropout[0]), (20000, config.dropout[1]))
        self.subsample = Conv2dSubsampling(num_features, first) if config.embed == "conv2d" else None
        self.embed_norm = nn.LayerNorm(joined) if linear else None
        self.project = nn.Linear(joined, first) if linear else None
        self.mask_embedding = nn.Parameter(torch.empty(first).uniform_())
        step = WARM_UP / (self.num_layers + 1)
        self.stacks = nn.ModuleList(
            Stack(sizes, config.pos_dim, config.causal, self.dropout, ((i + 1) * step, (i + 2) * step))
            for i, sizes in enumerate(config.stacks)
        )
        factor = config.output_downsampling
        self.downsample_output = Downsample(factor) if factor > 1 else None
        for module in self.modules():
            if isinstance(module, Clocked):
                module.updates_scale = config.updates_scale

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T'', F) features and (B,) lengths to latents (B, T', E) and theirs."""
        if self.subsample is not None:
            return self.subsample(x, lengths)
        if self.config.embed == "stack":
            x = x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None], 0.0)
            x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.config.stacked_frames))
            x, lengths = x.view(x.shape[0], -1, self.latent_dim), self.latent_lengths(lengths)
        return (x if self.embed_norm is None else self.embed_norm(x)), lengths

    @torch.compiler.disable
    def encode(
        self, x: Tensor, lengths: Tensor, mask: Tensor | None = None, padded: bool = True
    ) -> EncoderOutput:
        """Latents (B, T', E), lengths (B,) and a mask (B, T') to frames (B, T, D); whole chunks are always padded."""
        x = self._input(x)
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        frames = x.shape[1]
        chunk, left_chunks = self._chunks()
        # Whole frames in every stack, and whole chunks; what is added counts as padding.
        unit = self.config.unit if chunk < 0 else math.lcm(chunk, self.config.unit)
        x = x.masked_fill(~valid_mask(lengths, frames)[:, :, None], 0.0)
        x = functional.pad(x, (0, 0, 0, -frames % unit))
        outputs = [x]
        contexts = self._contexts(x, lengths, chunk, left_chunks)
        for stack, sizes, context in zip(self.stacks, self.config.stacks, contexts, strict=True):
            outputs.append(stack(fit_channels(outputs[-1], sizes.dim), lengths, context))
        size = self._output_length(frames)

        def resample(output: Tensor) -> Tensor:
            return fit_channels(self.at_output_rate(output, lengths)[:, :size], self.dim)

        # Contiguous, as compiled code that takes it is made anew for another order in memory.
        last = self.at_output_rate(highest_channels(outputs[1:]), lengths)[:, :size].contiguous()
        return EncoderOutput(last, self._output_length(lengths), LazyLayers(outputs, resample))

    def at_output_rate(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T', C) frames of a stack, and (B,) how many are valid, to (B, T, C)."""
        return x if self.downsample_output is None else self.downsample_output(x, lengths)

    def latent_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Frames of the stacks for a number of feature frames, or for each of (B,) int64."""
        if self.subsample is not None:
            return convolved_lengths(lengths)
        factor = self.config.embed_downsampling
        return (lengths + factor - 1) // factor

    def output_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """Output frames for a number of feature frames, or for each of (B,) int64."""
        return self._output_length(self.latent_lengths(lengths))

    def _output_length(self, lengths: int | Tensor) -> int | Tensor:
        return (lengths + self.config.output_downsampling - 1) // self.config.output_downsampling

    def _input(self, x: Tensor) -> Tensor:
        """Latents to what a mask hides, (B, T', D0)."""
        if self.project is not None:
            return functional.dropout(self.project(x), self.config.input_dropout, self.training)
        rate = self.now(self.dropout)
        if self.subsample is None or not self.training or rate == 0:
            return x
        return x * ((torch.rand(len(x), 1, x.shape[2], device=x.device) > rate) / (1 - rate)).to(x.dtype)

    def _chunks(self) -> tuple[int, int]:
        """Frames of a chunk, and chunks before it that a frame sees; -1 for no limit."""
        config = self.config
        if not config.causal:
            return -1, -1
        chunk, left = config.chunk_size, config.left_context
        if self.training:
            chunk, left = (
                numbers[_draw(len(numbers))] for numbers in (config.chunk_sizes, config.left_contexts)
            )
        return chunk, -1 if chunk < 0 or left < 0 else max(1, left // chunk)

    def _contexts(self, x: Tensor, lengths: Tensor, chunk: int, left_chunks: int) -> list[Context]:
        """One for each stack; stacks of equal rate share what can be shared."""
        made: dict[int, Context] = {}
        config = self.config
        for factor in set(config.downsampling):
            sizes = (lengths + factor - 1) // factor, x.shape[1] // factor
            own_chunk = chunk // factor if chunk > 0 else -1
            made[factor] = make_context(*sizes, config.pos_dim, config.causal, own_chunk, left_chunks)
        contexts = [made[factor] for factor in config.downsampling]
        if not self.training:
            return contexts
        upper, uppermost = torch.rand(2, len(x), 1, 1, device=x.device) > CHANNEL_DROP
        keeps = [
            channel_mask(upper, upper & uppermost, sizes.unmasked_dim, sizes.dim).to(x.dtype)
            for sizes in config.stacks
        ]
        return [context._replace(keep=keep) for context, keep in zip(contexts, keeps, strict=True)]


def channel_mask(upper: Tensor, uppermost: Tensor, unmasked: int, dim: int) -> Tensor:
    """(B, 1, D) bool from two (B, 1, 1): which channels above the unmasked an utterance has, in two halves."""
    channel = torch.arange(dim, device=upper.device)
    middle = unmasked + (dim - unmasked) // 2
    return (channel < unmasked) | (upper & (channel < middle)) | uppermost


def fit_channels(x: Tensor, dim: int) -> Tensor:
    """(B, T, C) cut or filled up with zeros to (B, T, dim)."""
    return x if x.shape[2] == dim else functional.pad(x, (0, dim - x.shape[2]))


def highest_channels(outputs: Sequence[Tensor]) -> Tensor:
    """The last output's channels, then those it lacks from the most recent output that has them: (B, T', D)."""
    pieces = [outputs[-1]]
    have = outputs[-1].shape[2]
    for output in reversed(outputs[:-1]):
        if output.shape[2] > have:
            pieces.append(output[:, :, have:])
            have = output.shape[2]
    return torch.cat(pieces, dim=2)


class LazyLayers(Sequence[Tensor]):
    """The first stack's input and each stack's output, made alike when asked for."""

    def __init__(self, outputs: Sequence[Tensor], resample: Callable[[Tensor], Tensor]) -> None:
        self._outputs = outputs
        self._resample = resample

    def __len__(self) -> int:
        return len(self._outputs)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return LazyLayers(self._outputs[index], self._resample)
        return self._resample(self._outputs[index])


def _draw(count: int) -> int:
    """One of 0 .. count - 1, by PyTorch's CPU generator."""
    return int(torch.randint(count, ()))

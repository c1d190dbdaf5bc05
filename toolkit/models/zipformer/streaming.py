"""A causal Zipformer that is fed chunk by chunk and gives what it would give for the whole utterance.

Dimensions: B streams, F features, D width of the output, L frames of left context in the first stack.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import UserError
from toolkit.models.zipformer.context import Context, chunk_edges, relative_positions
from toolkit.models.zipformer.encoder import ZipformerEncoder, fit_channels, highest_channels
from toolkit.models.zipformer.layer import LayerState
from toolkit.nn.masks import valid_mask
from toolkit.nn.subsampling import CHANNELS, REACH, SEEN
from toolkit.nn.subsampling import output_lengths as convolved_lengths

LOOK_AHEAD = 13
"""Feature frames that the convolutions in front see beyond a chunk's own."""


class StreamState(NamedTuple):
    """What is kept between chunks; shapes and order are those that sherpa-onnx's streaming models have."""

    layers: list[LayerState]
    """Of every layer of every stack."""
    embed: Tensor | None
    """(B, 128, 3, about F / 4) before the ConvNeXt block; None without convolutions in front."""
    processed: Tensor
    """(B,) int64 frames of the first stack that went before."""

    def tensors(self) -> list[Tensor]:
        """All of them, six a layer first."""
        states = [tensor for layer in self.layers for tensor in layer]
        return [*states, *([] if self.embed is None else [self.embed]), self.processed]


class ZipformerStream:
    """Runs a causal encoder on chunks.

    Args:
        encoder: causal, in evaluation.
        chunk_size: frames of a chunk; the encoder's own if None.
        left_context: frames before its chunk that a frame sees, a multiple of the chunk; the encoder's own if None.

    Attributes:
        step: feature frames from one chunk to the next.
        window: feature frames that a chunk needs.

    Raises:
        UserError: an encoder that is not causal, or sizes that cannot be streamed.
    """

    def __init__(
        self, encoder: ZipformerEncoder, chunk_size: int | None = None, left_context: int | None = None
    ) -> None:
        config = encoder.config
        self.encoder = encoder
        self.chunk = config.chunk_size if chunk_size is None else chunk_size
        self.left = config.left_context if left_context is None else left_context
        if not config.causal:
            raise UserError("causal: found false, expected true for streaming")
        if self.chunk < 1 or self.chunk % config.unit:
            raise UserError(
                f"chunk_size: found {self.chunk}, expected a multiple of {config.unit} for streaming"
            )
        if self.left < 1 or self.left % self.chunk:
            raise UserError(
                f"left_context: found {self.left}, expected a multiple of chunk_size {self.chunk} for streaming"
            )
        self.step = config.embed_downsampling * self.chunk
        self.window = self.step + (LOOK_AHEAD if encoder.subsample is not None else 0)

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> StreamState:
        """The state before the first chunk, all zeros."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        layers = []
        for sizes in self.encoder.config.stacks:
            left, taps = self.left // sizes.downsampling, sizes.kernel_size // 2
            keys = left, batch, sizes.num_heads * sizes.query_head_dim
            values = left, batch, sizes.num_heads * sizes.value_head_dim
            for _ in range(sizes.num_layers):
                layers.append(
                    LayerState(
                        zeros(*keys),
                        zeros(1, batch, left, 3 * sizes.dim // 4),
                        zeros(*values),
                        zeros(*values),
                        zeros(batch, sizes.dim, taps),
                        zeros(batch, sizes.dim, taps),
                    )
                )
        subsample = self.encoder.subsample
        embed = None if subsample is None else zeros(batch, CHANNELS[-1], REACH, subsample.width)
        return StreamState(layers, embed, torch.zeros(batch, dtype=torch.int64, device=device))

    def __call__(
        self, features: Tensor, lengths: Tensor, state: StreamState
    ) -> tuple[Tensor, Tensor, StreamState]:
        """One chunk.

        Args:
            features: (B, window, F), from where the chunk starts.
            lengths: (B,) int64, how many of them exist: `window` or more, unless the utterance ends in it.
            state: of the chunk before.

        Returns:
            (B, chunk / output_downsampling, D) frames, (B,) how many of them exist, and the new state.
        """
        encoder, config = self.encoder, self.encoder.config
        lengths = lengths.clamp(max=self.window)
        features = features * valid_mask(lengths, self.window)[:, :, None]
        if encoder.subsample is not None:
            assert state.embed is not None
            # A few frames alone are an utterance; at the end of one they have been seen by the chunk before.
            rest = (lengths - SEEN).clamp(min=0) // 2
            lengths = torch.where(state.processed > 0, rest, convolved_lengths(lengths))
            x, embed = encoder.subsample.stream(features, lengths, state.embed)
        else:
            (x, lengths), embed = encoder.embed(features, lengths), None
            x = x if encoder.project is None else encoder.project(x)
        lengths = lengths.clamp(max=self.chunk)
        x = x * valid_mask(lengths, self.chunk)[:, :, None]
        outputs, kept = [x], []
        for stack, sizes in zip(encoder.stacks, config.stacks, strict=True):
            states = state.layers[len(kept) : len(kept) + sizes.num_layers]
            context = self._context(lengths, state.processed, sizes.downsampling)
            x, new = stack.stream(fit_channels(x, sizes.dim), lengths, context, states)
            outputs.append(x)
            kept += new
        frames = encoder.at_output_rate(highest_channels(outputs[1:]), lengths)
        new_lengths = (lengths + config.output_downsampling - 1) // config.output_downsampling
        return frames, new_lengths, StreamState(kept, embed, state.processed + lengths)

    def _context(self, lengths: Tensor, processed: Tensor, factor: int) -> Context:
        lengths, processed = (lengths + factor - 1) // factor, processed // factor
        frames, left = self.chunk // factor, self.left // factor
        valid = valid_mask(lengths, frames)
        # The frames before the chunk fill the left context from its end.
        before = valid_mask(processed, left).flip(1)
        return Context(
            positions=relative_positions(left + frames, frames, self.encoder.config.pos_dim, lengths.device),
            valid=valid,
            visible=torch.cat([before, valid], dim=1),
            hidden=None,
            chunk=frames,
            edges=chunk_edges(lengths, frames, frames, processed),
        )

    def windows(self, features: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cuts utterances (B, T, F) of (B,) valid frames into what `__call__` takes, to the end of the longest."""
        total = int(self.encoder.latent_lengths(features.shape[1]))
        for start in range(0, total, self.chunk):
            first = start * self.step // self.chunk
            window = features[:, first : first + self.window]
            window = torch.nn.functional.pad(window, (0, 0, 0, self.window - window.shape[1]))
            yield window, (lengths - first).clamp(min=0, max=self.window)

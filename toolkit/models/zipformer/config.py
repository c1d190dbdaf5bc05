"""Size and behaviour of a Zipformer."""

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PER_STACK = (
    "num_layers",
    "dims",
    "unmasked_dims",
    "feed_forward_dims",
    "num_heads",
    "kernel_sizes",
    "query_head_dims",
    "value_head_dims",
    "pos_head_dims",
)


class StackSizes(NamedTuple):
    """One stack's numbers; see the fields of `ZipformerConfig`."""

    num_layers: int
    dim: int
    unmasked_dim: int
    feed_forward_dim: int
    num_heads: int
    kernel_size: int
    query_head_dim: int
    value_head_dim: int
    pos_head_dim: int
    downsampling: int


@dataclass
class ZipformerConfig:
    """Size and behaviour; the defaults are those of icefall's medium model for recognition.

    A list holds a number for each stack, or one for all.
    """

    name: str = "zipformer"
    """Which encoder this is."""
    embed: Literal["conv2d", "stack", "linear", "none"] = "conv2d"
    """What stands before the stacks: convolutions that halve the frame rate, for filter banks; a norm and a linear
    layer over some frames at a time, for filter banks where time is short; the same over each frame, for a front end
    that learns; or nothing, for features that are as wide as the first stack."""
    stacked_frames: int = 4
    """Feature frames that "stack" makes one of."""
    downsampling: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 4, 2])
    """Frames that a stack takes for one."""
    num_layers: list[int] = field(default_factory=lambda: [2, 2, 3, 4, 3, 2])
    """Layers of a stack."""
    dims: list[int] = field(default_factory=lambda: [192, 256, 384, 512, 384, 256])
    """Width of a stack."""
    unmasked_dims: list[int] = field(default_factory=lambda: [192, 192, 256, 256, 256, 192])
    """Channels that are never dropped; of the others, half or all are missing in some utterances of a batch."""
    feed_forward_dims: list[int] = field(default_factory=lambda: [512, 768, 1024, 1536, 1024, 768])
    """Width inside the second of a layer's three feed-forward modules; the others have 3/4 and 5/4 of it."""
    num_heads: list[int] = field(default_factory=lambda: [4, 4, 4, 8, 4, 4])
    """Attention heads."""
    kernel_sizes: list[int] = field(default_factory=lambda: [31, 31, 15, 15, 15, 31])
    """Frames that a depthwise convolution sees; odd."""
    query_head_dims: list[int] = field(default_factory=lambda: [32])
    """Width of a query and of a key, in a head."""
    value_head_dims: list[int] = field(default_factory=lambda: [12])
    """Width of a value, in a head."""
    pos_head_dims: list[int] = field(default_factory=lambda: [4])
    """Width of a projected position, in a head."""
    pos_dim: int = 48
    """Width of the encoding of relative positions; even."""
    output_downsampling: int = 2
    """Frames of the stacks to one output frame."""
    causal: bool = False
    """Whether a frame sees only its own chunk and those before it."""
    chunk_sizes: list[int] = field(default_factory=lambda: [16, 32, 64, -1])
    """Causal training: frames of a chunk, drawn anew for each batch; -1 for the whole utterance."""
    left_contexts: list[int] = field(default_factory=lambda: [64, 128, 256, -1])
    """Causal training: frames before its chunk that a frame sees, drawn anew for each batch; -1 for all."""
    chunk_size: int = 32
    """Causal, not in training: frames of a chunk; -1 for the whole utterance."""
    left_context: int = 128
    """Causal, not in training: frames before its chunk that a frame sees; -1 for all."""
    dropout: tuple[float, float] = (0.3, 0.1)
    """Dropout in feed-forward modules and after the convolutions of "conv2d": at first, and from 20000 batches on."""
    input_dropout: float = 0.0
    """Dropout after the linear layer of "linear"."""
    updates_scale: float = 1.0
    """Batches of the size that the schedules were made for, about 600 s of audio, that an update counts for."""

    def __post_init__(self) -> None:
        stacks = len(self.downsampling)
        for name in PER_STACK:
            numbers = getattr(self, name)
            if len(numbers) not in (1, stacks):
                raise ValueError(
                    f"{name} must hold one number, or one for each of {stacks} stacks, got {numbers}"
                )
        for name in ("downsampling", *PER_STACK):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("output_downsampling", "stacked_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, got {self.kernel_sizes}")
        if self.pos_dim < 2 or self.pos_dim % 2:
            raise ValueError(f"pos_dim must be even, got {self.pos_dim}")
        for name in ("dims", "feed_forward_dims"):
            if min(getattr(self, name)) < 2:
                raise ValueError(
                    f"{name} must be at least 2, as modules have 3/4 of it, got {getattr(self, name)}"
                )
        for sizes in self.stacks:
            if sizes.unmasked_dim > sizes.dim:
                raise ValueError(
                    f"dims must be at least unmasked_dims, got {sizes.dim} and {sizes.unmasked_dim}"
                )
        if len(self.dropout) != 2:
            raise ValueError(f"dropout must be two numbers, got {self.dropout}")
        if not 0 <= self.input_dropout < 1 or not all(0 <= rate < 1 for rate in self.dropout):
            raise ValueError(
                f"dropout and input_dropout must be in [0, 1), got {self.dropout} and {self.input_dropout}"
            )
        if self.updates_scale <= 0:
            raise ValueError(f"updates_scale must be over 0, got {self.updates_scale}")
        if self.causal:
            self._check_chunks()

    def _check_chunks(self) -> None:
        """Chunks must be whole frames of every stack, and cover what a convolution sees."""
        if not self.chunk_sizes or not self.left_contexts:
            raise ValueError("chunk_sizes and left_contexts must not be empty")
        for chunk in (*self.chunk_sizes, self.chunk_size):
            if chunk != -1 and (chunk < 1 or chunk % self.unit):
                raise ValueError(
                    f"chunk_size and chunk_sizes must be -1 or multiples of {self.unit} frames, got {chunk}"
                )
        if any(left != -1 and left < 1 for left in (*self.left_contexts, self.left_context)):
            raise ValueError("left_context and left_contexts must be -1 or at least 1")

    @property
    def stacks(self) -> list[StackSizes]:
        """The numbers of each stack."""
        count = len(self.downsampling)
        lists = [getattr(self, name) for name in PER_STACK]
        full = [numbers * count if len(numbers) == 1 else numbers for numbers in lists]
        return [StackSizes(*numbers) for numbers in zip(*full, self.downsampling, strict=True)]

    @property
    def embed_downsampling(self) -> int:
        """Feature frames to one of the first stack."""
        return {"conv2d": 2, "stack": self.stacked_frames}.get(self.embed, 1)

    @property
    def unit(self) -> int:
        """Frames of the first stack that are whole frames everywhere."""
        return math.lcm(*self.downsampling, self.output_downsampling)

"""The Transformer encoder of wav2vec 2.0, HuBERT, WavLM and data2vec, their differences being settings.

Dimensions: B batch, T frames, F features, D model width, H heads, L layers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint

from toolkit.models.output import EncoderOutput
from toolkit.nn.adapter import AdapterSlot
from toolkit.nn.dropout import Dropout
from toolkit.nn.positions import BiasGate, ConvPositions, RelativeBias, StackedConvPositions
from toolkit.nn.self_attention import Padding, SelfAttention


@dataclass
class TransformerConfig:
    """Size, kind and regularisation of a Transformer."""

    name: str = "transformer"
    """Which encoder this is."""
    dim: int = 768
    """D, width of the model."""
    num_layers: int = 12
    """L, number of layers."""
    num_heads: int = 12
    """H, attention heads."""
    feed_forward_dim: int = 3072
    """Width inside the feed-forward module of a layer."""
    norm_first: bool = False
    """Whether a module's input is normalised (the large models) or the sum of its input and output (the base ones)."""
    positions: Literal["conv", "conv_stack"] = "conv"
    """conv: one wide convolution with weight norm; conv_stack: several with a norm each (data2vec)."""
    position_layers: int = 5
    """Convolutions of a conv_stack."""
    position_kernel: int = 128
    """Frames that a convolution for positions sees."""
    position_groups: int = 16
    """Groups of its channels."""
    bias_buckets: int = 0
    """Buckets of the relative position bias (WavLM: 320), a multiple of 4; 0 for no such bias."""
    bias_distance: int = 800
    """Distance, in frames, from which on all share the last bucket."""
    dropout: float = 0.1
    """Dropout after the positions and after each module of a layer."""
    attention_dropout: float = 0.1
    """Dropout on attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward module."""
    input_dropout: float = 0.1
    """Dropout on the projected features."""
    layer_drop: float = 0.05
    """Probability that training leaves out a layer; compiled code saves no time by it."""
    norm_epsilon: float = 1e-5
    """What the norms add to the variance."""
    checkpointing: bool = False
    """Whether layers are computed again in the backward pass, which takes a third more time and far less memory."""

    def __post_init__(self) -> None:
        sizes = ("dim", "num_layers", "num_heads", "feed_forward_dim", "position_layers", "position_kernel")
        for name in (*sizes, "position_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_heads", "position_groups"):
            if self.dim % getattr(self, name):
                raise ValueError(
                    f"dim must be a multiple of {name}, got {self.dim} and {getattr(self, name)}"
                )
        for name in ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.norm_epsilon <= 0:
            raise ValueError(f"norm_epsilon must be over 0, got {self.norm_epsilon}")
        if self.bias_buckets < 0 or self.bias_buckets % 4:
            raise ValueError(f"bias_buckets must be a multiple of 4, got {self.bias_buckets}")
        if self.bias_buckets and self.bias_distance <= self.bias_buckets // 4:
            raise ValueError(
                f"bias_distance must be above bias_buckets / 4, got {self.bias_distance} and {self.bias_buckets}"
            )


class TransformerEncoder(nn.Module):
    """Norm and projection of the features, convolutional positions, L layers.

    `EncoderOutput.layers` are the hidden states of Hugging Face's transformers 5: the input of the first layer, with
    positions, and the output of each layer. With `norm_first` a final norm makes `EncoderOutput.frames` of the last of
    them (transformers 4 gave the result of this norm as the last hidden state); else the last of them are the frames.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.latent_dim = num_features
        self.num_layers = config.num_layers
        self.subsampling = 1
        self.embed_norm = nn.LayerNorm(num_features, config.norm_epsilon)
        self.project = nn.Linear(num_features, config.dim)
        self.input_dropout = Dropout(config.input_dropout)
        self.mask_embedding = nn.Parameter(torch.empty(config.dim).uniform_())
        kernel, groups = config.position_kernel, config.position_groups
        self.positions = (
            ConvPositions(config.dim, kernel, groups)
            if config.positions == "conv"
            else StackedConvPositions(config.dim, kernel, groups, config.position_layers)
        )
        self.norm = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.dropout = Dropout(config.dropout)
        self.relative_bias = (
            RelativeBias(config.num_heads, config.bias_buckets, config.bias_distance)
            if config.bias_buckets
            else None
        )
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.layers.apply(initialize)

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) features and (B,) lengths to normalised features and the same lengths."""
        return self.embed_norm(x), lengths

    def encode(
        self, x: Tensor, lengths: Tensor, mask: Tensor | None = None, padded: bool = True
    ) -> EncoderOutput:
        """Latents (B, T, F), lengths (B,) and a mask (B, T) to every layer's (B, T, D); see `Encoder`."""
        padding = Padding.of(lengths, x.shape[1], padded)
        x = self.input_dropout(self.project(x))
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        if padding.valid is not None:
            x = x.masked_fill(~padding.valid[:, :, None], 0.0)
        x = x + self.positions(x, padding.valid)
        x = self.dropout(x if self.config.norm_first else self.norm(x))
        bias = None if self.relative_bias is None else self.relative_bias(x.shape[1])
        outputs = [x]
        for layer, dropped in zip(self.layers, self._draw(x.device), strict=True):
            outputs.append(self._through(layer, dropped, outputs[-1], padding, bias))
        if not self.config.norm_first:
            return EncoderOutput(outputs[-1], lengths, outputs)
        frames = self.norm(outputs[-1])
        # Who learns from the layers alone has a gradient for the final norm nevertheless.
        outputs[-1] = LeftOut.apply(outputs[-1], *self.norm.parameters())
        return EncoderOutput(frames, lengths, outputs)

    def latent_lengths(self, lengths: int | Tensor) -> int | Tensor:
        """As many frames as the front end gives."""
        return lengths

    output_lengths = latent_lengths

    def _draw(self, device: torch.device) -> list[bool] | list[Tensor]:
        """Which layers are left out, from the CPU's generator: a GPU would have to be waited for.

        In compiled code, where each combination would be a program of its own, a tensor for each layer.
        """
        if not self.training or self.config.layer_drop == 0:
            return [False] * self.num_layers
        if torch.compiler.is_compiling():
            return list((torch.rand(self.num_layers, device=device) < self.config.layer_drop).unbind())
        return (torch.rand(self.num_layers) < self.config.layer_drop).tolist()

    def _through(
        self, layer: nn.Module, dropped: bool | Tensor, x: Tensor, padding: Padding, bias: Tensor | None
    ) -> Tensor:
        if isinstance(dropped, Tensor):
            return torch.where(dropped, x, self._through(layer, False, x, padding, bias))
        if dropped:
            return LeftOut.apply(x, *layer.parameters(), *([] if bias is None else [bias]))
        if self.config.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, x, padding, bias, use_reentrant=False)
        return layer(x, padding, bias)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each added to its input, with a norm before or after (arXiv 1706.03762)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.gate = (
            BiasGate(config.num_heads, config.dim // config.num_heads) if config.bias_buckets else None
        )
        self.attention = SelfAttention(config.dim, config.num_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.dim, config.feed_forward_dim),
            nn.GELU(),
            Dropout(config.activation_dropout),
            nn.Linear(config.feed_forward_dim, config.dim),
        )
        self.feed_forward_norm = nn.LayerNorm(config.dim, config.norm_epsilon)
        self.dropout = Dropout(config.dropout)
        self.adapter = AdapterSlot(config.dim)

    def forward(self, x: Tensor, padding: Padding, bias: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `bias` is (H, T, T), the same for all layers."""
        if self.norm_first:
            x = x + self.dropout(self._attend(self.attention_norm(x), padding, bias))
            return self.adapter(x + self.dropout(self.feed_forward(self.feed_forward_norm(x))))
        x = self.attention_norm(x + self.dropout(self._attend(x, padding, bias)))
        return self.adapter(self.feed_forward_norm(x + self.dropout(self.feed_forward(x))))

    def _attend(self, x: Tensor, padding: Padding, bias: Tensor | None) -> Tensor:
        return self.attention(x, padding, None if self.gate is None else self.gate(x, bias))


class LeftOut(torch.autograd.Function):
    """Passes on what a module is given; the module's parameters get gradients of zero.

    So an update is the same for any number of ranks, of which each leaves out other layers, and
    DistributedDataParallel, which waits for the gradient of every parameter, gets it.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *parameters: Tensor) -> Tensor:
        """A view of x."""
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        """The gradient for x, zeros for the parameters."""
        return grad, *map(torch.zeros_like, ctx.saved_tensors)


def initialize(module: nn.Module) -> None:
    """Weights of linear layers from N(0, 0.02), biases zero, as in BERT."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

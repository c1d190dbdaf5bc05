"""Streaming Zipformers in the form that sherpa-onnx feeds chunk by chunk.

Dimensions: N streams, L frames of left context, D width of a stack, H heads, C / V width of a key / value, K taps.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from toolkit.export.onnx import Port
from toolkit.models.zipformer.layer import LayerState
from toolkit.models.zipformer.streaming import StreamState, ZipformerStream

FEATURES = 80
"""Of a frame."""
EMBED_STATE = (128, 3, 19)
"""Shape of what sherpa-onnx keeps for the convolutions in front, whether there are any or not."""
OF_LAYER = {
    "cached_key": 1,
    "cached_nonlin_attn": 1,
    "cached_val1": 1,
    "cached_val2": 1,
    "cached_conv1": 0,
    "cached_conv2": 0,
}
"""icefall's names of what a layer keeps, in the order of `LayerState`, and which axis counts streams."""


class StreamingEncoder(nn.Module):
    """One chunk of features and all states to one chunk of output and all states.

    Args:
        stream: of the encoder.
        head: what is put on top of its frames.
    """

    def __init__(self, stream: ZipformerStream, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = stream.encoder, head
        self.stream = stream

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """(N, window, 80) features and the states in the order of `StreamState.tensors`; a window is always full."""
        *of_layers, embed, processed = states
        size = len(LayerState._fields)
        layers = [LayerState(*of_layers[i : i + size]) for i in range(0, len(of_layers), size)]
        full = torch.full_like(processed, self.stream.window)
        convolved = self.encoder.subsample is not None
        frames, _, new = self.stream(x, full, StreamState(layers, embed if convolved else None, processed))
        # sherpa-onnx hands this state on to every encoder, also to one that stacks frames and has no use for it.
        kept = new._replace(embed=new.embed if convolved else embed * 1)
        return self.head(frames), *kept.tensors()

    def example(self, count: int) -> list[Tensor]:
        """Arguments for that many streams, of noise; their states are those of streams that have begun."""
        first = self.stream.initial_state(count)
        if first.embed is None:
            first = first._replace(embed=torch.zeros(count, *EMBED_STATE))
        states = first.tensors()
        noise = [torch.randn(state.shape) for state in states[:-1]]
        seen = self.stream.chunk * torch.arange(1, count + 1)
        return [torch.randn(count, self.stream.window, FEATURES), *noise, seen]

    def ports(self, output: str) -> tuple[list[Port], list[Port]]:
        """Inputs and outputs, of which the first is called `output`."""
        states = list(self._states())
        new = [Port(f"new_{name}", axes) for name, axes in states]
        return [Port("x", {0: "N"}), *states], [Port(output, {0: "N"}), *new]

    def _states(self) -> Iterator[Port]:
        for layer in range(sum(sizes.num_layers for sizes in self.encoder.config.stacks)):
            for name, axis in OF_LAYER.items():
                yield Port(f"{name}_{layer}", {axis: "N"})
        yield Port("embed_states", {0: "N"})
        yield Port("processed_lens", {0: "N"})

    def metadata(self) -> dict[str, str | int]:
        """What sherpa-onnx needs to make the first states, and to cut the features."""
        stacks = self.encoder.config.stacks
        lists = {
            "encoder_dims": [sizes.dim for sizes in stacks],
            "query_head_dims": [sizes.query_head_dim for sizes in stacks],
            "value_head_dims": [sizes.value_head_dim for sizes in stacks],
            "num_heads": [sizes.num_heads for sizes in stacks],
            "num_encoder_layers": [sizes.num_layers for sizes in stacks],
            "cnn_module_kernels": [sizes.kernel_size for sizes in stacks],
            "left_context_len": [self.stream.left // sizes.downsampling for sizes in stacks],
        }
        return {
            **{name: ",".join(map(str, numbers)) for name, numbers in lists.items()},
            "T": self.stream.window,
            "decode_chunk_len": self.stream.step,
        }

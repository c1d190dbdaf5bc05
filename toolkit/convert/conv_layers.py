"""The convolutions over samples as fairseq and icefall name them."""

import re
from typing import Any

from torch import Tensor

from toolkit.errors import UserError

USUAL_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
NORMS = {"2": "convs.0.norm", "2.1": "norms.{}"}
"""Names of norms after a convolution -> ours: of channels over time, of each frame."""
MAX_LAYERS = 100
"""What a description may ask for, lest it takes all memory."""
TERM = re.compile(r"\s*\[((?:\s*\(\s*\d+\s*,\s*\d+\s*,\s*\d+\s*\)\s*,?)+)\s*\]\s*(?:\*\s*(\d+)\s*)?")


def read_conv_layers(state: dict[str, Tensor], settings: dict[str, Any]) -> tuple[dict, dict[str, Tensor]]:
    """The waveform front end in a checkpoint.

    Args:
        state: what follows `feature_extractor.` in the names, such as conv_layers.0.0.weight.
        settings: `conv_feature_layers`, `do_normalize` and `feature_grad_mult`, as far as known.

    Returns:
        The configuration of the front end, and its weights by name within `SpeechEncoder`.

    Raises:
        UserError: a name that no front end has, `conv_feature_layers` that do not fit the shapes, or another setting
            that is none.
    """
    weights = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"conv_layers\.(\d+)\.(0|2|2\.1)\.(weight|bias)", name)
        if match is None:
            raise UserError(
                f"checkpoint: found feature_extractor.{name}, expected conv_layers.0.0.weight and its like"
            )
        index, part, kind = match.groups()
        module = f"convs.{index}" if part == "0" else NORMS[part].format(index)
        weights[f"frontend.{module}.{kind}"] = tensor
    shapes = [state[f"conv_layers.{i}.0.weight"].shape for i in range(_count(state))]
    described = str(settings.get("conv_feature_layers", USUAL_LAYERS))
    layers = parse_layers(described)
    if [(dim, kernel) for dim, kernel, _ in layers] != [(shape[0], shape[2]) for shape in shapes]:
        found = [(shape[0], shape[2]) for shape in shapes]
        raise UserError(
            f"conv_feature_layers: found {described}, expected dimensions and kernels {found} as in the checkpoint"
        )
    normalize = settings.get("do_normalize", True)
    if not isinstance(normalize, bool):
        raise UserError(f"do_normalize: found {normalize!r}, expected true or false")
    dims, kernels, strides = (list(numbers) for numbers in zip(*layers, strict=True))
    config = {
        "name": "waveform",
        "dims": dims,
        "kernels": kernels,
        "strides": strides,
        "norm": "layer" if "conv_layers.0.2.1.weight" in state else "group",
        "bias": "conv_layers.0.0.bias" in state,
        "normalize": normalize,
        "feature_grad_mult": settings.get("feature_grad_mult", 1.0),
    }
    return config, weights


def parse_layers(text: str) -> list[tuple[int, int, int]]:
    """Dimension, kernel and stride of each layer in a description such as `[(512,10,5)] + [(512,3,2)] * 4`."""
    layers = []
    for term in text.split("+"):
        match = TERM.fullmatch(term)
        if match is None:
            raise UserError(f"conv_feature_layers: found {text!r}, expected such as {USUAL_LAYERS}")
        numbers = [int(number) for number in re.findall(r"\d+", match[1])]
        part = [(a, b, c) for a, b, c in zip(*[iter(numbers)] * 3, strict=True)]
        times = int(match[2] or 1)
        if len(layers) + len(part) * times > MAX_LAYERS:
            raise UserError(f"conv_feature_layers: found {text!r}, expected at most {MAX_LAYERS} layers")
        layers += part * times
    return layers


def _count(state: dict[str, Tensor]) -> int:
    return 1 + max((int(name.split(".")[1]) for name in state), default=-1)

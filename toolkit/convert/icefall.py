"""Zipformer as icefall's checkpoints hold it: for recognition, for pretraining, and pretrained then fine-tuned.

What shapes tell is read from them. The number of heads and what matters in training alone is not there: it comes from
the settings (named as the options of icefall's train.py), else from icefall's defaults where they fit.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toolkit.convert.conv_layers import read_conv_layers
from toolkit.convert.converted import Converted
from toolkit.errors import UserError
from toolkit.models.zipformer.config import ZipformerConfig

State = dict[str, Tensor]

MARK = re.compile(r"(.*)encoders\.0\.(?:encoder\.)?layers\.0\.norm\.log_scale")
LAYER = re.compile(r"encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.(.+)")
MODULES = {
    "self_attn_weights.in_proj": "attention_weights.project",
    "self_attn_weights.linear_pos": "attention_weights.project_positions",
    "self_attn1.in_proj": "attention1.value",
    "self_attn1.out_proj": "attention1.out",
    "self_attn2.in_proj": "attention2.value",
    "self_attn2.out_proj": "attention2.out",
    "nonlin_attention.in_proj": "nonlin_attention.expand",
    "nonlin_attention.out_proj": "nonlin_attention.out",
    "norm": "norm",
    "bypass.bypass_scale": "bypass.scale",
    "bypass_mid.bypass_scale": "middle_bypass.scale",
    **{
        f"feed_forward{i}.{theirs}": f"feed_forward{i}.{ours}"
        for i in (1, 2, 3)
        for theirs, ours in (("in_proj", "expand"), ("out_proj", "out"))
    },
    **{
        f"conv_module{i}.{theirs}": f"convolution{i}.{ours}"
        for i in (1, 2)
        for theirs, ours in (
            ("in_proj", "expand"),
            ("out_proj", "out"),
            ("depthwise_conv.causal_conv", "depthwise.causal"),
            ("depthwise_conv.chunkwise_conv", "depthwise.within"),
            ("depthwise_conv.chunkwise_conv_scale", "depthwise.edge_scale"),
            ("depthwise_conv", "depthwise"),
        )
    },
}
"""Names within a layer, in icefall and here."""
EMBED = {
    "conv.0": "convs.0",
    "conv.4": "convs.1",
    "conv.7": "convs.2",
    "convnext.depthwise_conv": "convnext.depthwise",
    "convnext.pointwise_conv1": "convnext.expand",
    "convnext.pointwise_conv2": "convnext.out",
    "out": "out",
    "out_norm": "norm",
}
"""Names within the convolutions in front."""
DEFAULTS = {
    "num_heads": [4, 4, 4, 8, 4, 4],
    "query_head_dim": [32],
    "value_head_dim": [12],
    "pos_head_dim": [4],
    "encoder_unmasked_dim": [192, 192, 256, 256, 256, 192],
    "chunk_size": [16, 32, 64, -1],
    "left_context_frames": [64, 128, 256, -1],
    "feature_dim": [80],
}
"""Of icefall's train.py."""
OPTIONS = (*DEFAULTS, "conv_feature_layers", "do_normalize", "dropout_input", "feature_grad_mult")
"""All options that are looked at; shapes tell the others."""


def read_icefall(state: State, settings: dict[str, Any]) -> Converted:
    """The speech encoder in a checkpoint of icefall.

    Args:
        state: the checkpoint's weights.
        settings: options that it was trained with, as far as known; numbers, lists, or numbers with commas between.

    Raises:
        UserError: no Zipformer in it, a setting that does not fit its shapes, or one that is needed and not given.
    """
    prefix = next((match[1] for name in state if (match := MARK.fullmatch(name))), None)
    if prefix is None:
        raise UserError(
            "checkpoint: found no name like encoder.encoders.0.layers.0.norm.log_scale, expected a Zipformer of icefall"
        )
    base = prefix.removesuffix("encoder.")
    weights: State = {}
    left_out = []
    learned = f"{base}feature_extractor."
    frontend_state = {name.removeprefix(learned): state[name] for name in state if name.startswith(learned)}
    for name, tensor in state.items():
        if name.startswith(learned):
            continue
        ours = _name(name, prefix, base, len(tensor) if tensor.ndim else 0)
        if ours is None:
            left_out.append(name)
        else:
            weights[f"encoder.{ours}"] = _reordered(ours, tensor)
    embed = "linear" if frontend_state else "conv2d" if f"{base}encoder_embed.out.weight" in state else "none"
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    encoder = {"name": "zipformer", "embed": embed, **_sizes(inner, settings)}
    if embed == "linear":
        encoder["input_dropout"] = settings.get("dropout_input", 0.0)
    first = encoder["dims"][0]
    # A model that was trained for recognition has never seen a hidden frame.
    weights.setdefault("encoder.mask_embedding", torch.zeros(first))
    if embed == "linear":
        frontend, theirs = read_conv_layers(frontend_state, settings)
        weights |= theirs
        weights.setdefault("encoder.project.weight", torch.eye(first))
        weights.setdefault("encoder.project.bias", torch.zeros(first))
    else:
        frontend = {
            "name": "fbank",
            "normalize": False,
            "num_mel_bins": _features(state, base, first, settings),
        }
    return Converted({"frontend": frontend, "encoder": encoder}, weights, left_out)


def _name(name: str, prefix: str, base: str, size: int) -> str | None:
    """The name within our encoder of a weight with so many rows; None if it has no place there."""
    for theirs, ours in (("layer_norm", "embed_norm"), ("post_extract_proj", "project")):
        for kind in ("weight", "bias"):
            if name == f"{base}{theirs}.{kind}":
                return f"{ours}.{kind}"
    if name == f"{base}mask_emb":
        return "mask_embedding"
    if name.startswith(f"{base}encoder_embed."):
        return _renamed(name.removeprefix(f"{base}encoder_embed."), EMBED, "subsample.")
    if not name.startswith(prefix):
        return None
    inner = name.removeprefix(prefix)
    if inner == "downsample_output.bias":
        # One frame out of one needs no weight.
        return "downsample_output.logits" if size > 1 else None
    if match := LAYER.fullmatch(inner):
        return _renamed(match[3], MODULES, f"stacks.{match[1]}.layers.{match[2]}.")
    if match := re.fullmatch(r"encoders\.(\d+)\.(?:(downsample\.bias)|out_combiner\.bypass_scale)", inner):
        return f"stacks.{match[1]}." + ("downsample.logits" if match[2] else "combine.scale")
    return None


def _renamed(name: str, table: dict[str, str], prefix: str) -> str | None:
    if name in table:
        return prefix + table[name]
    module, _, kind = name.rpartition(".")
    return f"{prefix}{table[module]}.{kind}" if module in table else None


def _reordered(name: str, tensor: Tensor) -> Tensor:
    """Weights as our layers hold them: depthwise (D, 1, K, 1), pointwise (D, C), channels last in the projection."""
    if ".depthwise" in name and tensor.ndim == 3 and name.endswith(".weight"):
        return tensor[:, :, :, None].contiguous()
    if name.startswith("subsample.convnext.") and name.endswith((".expand.weight", ".out.weight")):
        return tensor[:, :, 0, 0].contiguous()
    if name == "subsample.out.weight":
        channels = 128
        return tensor.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1).contiguous()
    return tensor


def _sizes(inner: State, settings: dict[str, Any]) -> dict[str, Any]:
    """What `ZipformerConfig` holds, but for the way in."""
    stacks = sorted({int(match[1]) for name in inner if (match := LAYER.fullmatch(name))})
    layers = [
        {
            match[3]: tensor
            for name, tensor in inner.items()
            if (match := LAYER.fullmatch(name)) and (int(match[1]), int(match[2])) == (stack, 0)
        }
        for stack in stacks
    ]
    counts = [
        1
        + max(int(match[2]) for name in inner if (match := LAYER.fullmatch(name)) and int(match[1]) == stack)
        for stack in stacks
    ]
    causal = "conv_module1.depthwise_conv.causal_conv.weight" in layers[0]
    kernel = "conv_module1.depthwise_conv." + ("chunkwise_conv.weight" if causal else "weight")
    downsampling = [_length(inner, f"encoders.{stack}.downsample.bias") for stack in stacks]
    dims = [len(layer["norm.bias"]) for layer in layers]
    found = {
        "num_layers": counts,
        "dims": dims,
        "downsampling": downsampling,
        "output_downsampling": _length(inner, "downsample_output.bias"),
        "feed_forward_dims": [len(layer["feed_forward2.in_proj.weight"]) for layer in layers],
        "kernel_sizes": [layer[kernel].shape[2] for layer in layers],
        "pos_dim": layers[0]["self_attn_weights.linear_pos.weight"].shape[1],
        "unmasked_dims": _unmasked(dims, settings),
        "causal": causal,
        **_heads(layers, settings),
    }
    return found | (_chunks(settings) if causal else {})


def _length(inner: State, name: str) -> int:
    return len(inner[name]) if name in inner else 1


def _heads(layers: Sequence[State], settings: dict[str, Any]) -> dict[str, list[int]]:
    """Heads and their widths: shapes tell the product of both for queries, values and positions."""
    positions = [len(layer["self_attn_weights.linear_pos.weight"]) for layer in layers]
    projected = [len(layer["self_attn_weights.in_proj.weight"]) for layer in layers]
    totals = {
        "query_head_dim": [(both - own) // 2 for both, own in zip(projected, positions, strict=True)],
        "value_head_dim": [len(layer["self_attn1.in_proj.weight"]) for layer in layers],
        "pos_head_dim": positions,
    }
    count = len(layers)
    heads = _numbers(settings, "num_heads", count)
    if heads is not None and min(heads) < 1:
        raise UserError(f"num_heads: found {heads}, expected at least 1")
    for name, total in totals.items():
        if heads is None and (widths := _numbers(settings, name, count)) is not None:
            if min(widths) < 1:
                raise UserError(f"{name}: found {widths}, expected at least 1")
            heads = [whole // width for whole, width in zip(total, widths, strict=True)]
    heads = heads or _default_heads(totals, count)
    found = {"num_heads": heads}
    for name, total in totals.items():
        if any(whole % head for whole, head in zip(total, heads, strict=True)):
            raise UserError(
                f"num_heads: found {heads}, expected divisors of {total}, the width of all heads ({name})"
            )
        found[f"{name}s"] = widths = [whole // head for whole, head in zip(total, heads, strict=True)]
        if (wanted := _numbers(settings, name, count)) not in (None, widths):
            raise UserError(f"{name}: found {wanted}, expected {widths} as the checkpoint's shapes have it")
    return found


def _default_heads(totals: dict[str, list[int]], count: int) -> list[int]:
    """The numbers of heads that icefall's default widths, else its default numbers, make of the shapes."""
    by_width = [[whole / DEFAULTS[name][0] for whole in total] for name, total in totals.items()]
    if all(heads == by_width[0] for heads in by_width) and all(head == int(head) for head in by_width[0]):
        return [int(head) for head in by_width[0]]
    heads = DEFAULTS["num_heads"]
    fits = count == len(heads) and not any(
        whole % head for total in totals.values() for whole, head in zip(total, heads, strict=True)
    )
    if not fits:
        raise UserError(
            "num_heads: not given, and icefall's defaults do not fit the checkpoint's shapes; expected a number a "
            "stack (--set num_heads=N,N,...)"
        )
    return heads


def _unmasked(dims: list[int], settings: dict[str, Any]) -> list[int]:
    name = "encoder_unmasked_dim"
    given = _numbers(settings, name, len(dims))
    unmasked = given or DEFAULTS[name]
    if len(unmasked) == len(dims) and all(own <= dim for own, dim in zip(unmasked, dims, strict=True)):
        return unmasked
    if given:
        raise UserError(f"{name}: found {given}, expected at most the widths {dims}")
    raise UserError(
        f"{name}: not given, and icefall's default does not fit the widths {dims} (--set {name}=N,N,...)"
    )


def _chunks(settings: dict[str, Any]) -> dict[str, Any]:
    """What a causal model was trained with, and what it is used with: the same where there is but one choice."""
    found: dict[str, Any] = {}
    for name, ours in (("chunk_size", "chunk_size"), ("left_context_frames", "left_context")):
        choices = _numbers(settings, name) or DEFAULTS[name]
        usual = getattr(ZipformerConfig, ours)
        found |= {f"{ours}s": choices, ours: usual if usual in choices or len(choices) > 1 else choices[0]}
    return found


def _features(state: State, base: str, first: int, settings: dict[str, Any]) -> int:
    """Bins of the filter bank: of the width of the first stack, or four numbers that convolutions make one of."""
    given = _numbers(settings, "feature_dim", 1)
    (bins,) = given or DEFAULTS["feature_dim"]
    fitting = [first]
    if (out := state.get(f"{base}encoder_embed.out.weight")) is not None:
        fitting = [4 * (out.shape[1] // 128) + more for more in (3, 4, 5, 6)]
    if bins not in fitting:
        found = f"found {bins}" if given else f"not given, and icefall's default is {bins}"
        raise UserError(
            f"feature_dim: {found}, expected {' or '.join(map(str, fitting))} as the checkpoint's shapes have it "
            "(--set feature_dim=N)"
        )
    return bins


def _numbers(settings: dict[str, Any], name: str, count: int | None = None) -> list[int] | None:
    """A setting as a list of numbers, one repeated for each of `count` stacks; None if it is not given."""
    given = settings.get(name)
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    if not all(re.fullmatch(r"\s*-?\d+\s*", str(part)) for part in parts):
        raise UserError(f"{name}: found {given!r}, expected whole numbers with commas between")
    numbers = [int(part) for part in parts]
    if count is not None and len(numbers) == 1:
        numbers = numbers * count
    if not numbers or count not in (None, len(numbers)):
        raise UserError(f"{name}: found {given!r}, expected one number or {count}")
    return numbers

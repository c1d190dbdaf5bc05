"""HuBERT, wav2vec 2.0, WavLM and data2vec as fairseq's checkpoints hold them, pretrained or fine-tuned.

Hugging Face has a configuration and names for the same models: the checkpoints are put in those terms first.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from toolkit.convert.conv_layers import USUAL_LAYERS, parse_layers
from toolkit.convert.converted import Converted
from toolkit.convert.hf import from_hf
from toolkit.convert.safe import plain
from toolkit.errors import UserError

FINE_TUNED = "w2v_encoder.w2v_model."
"""Before the names of an encoder inside a recogniser."""
MODULES = {
    "layer_norm": "feature_projection.layer_norm",
    "post_extract_proj": "feature_projection.projection",
    "encoder.layer_norm": "encoder.layer_norm",
    "self_attn.relative_attention_bias": "attention.rel_attn_embed",
    "self_attn.grep_linear": "attention.gru_rel_pos_linear",
    **{f"self_attn.{part}_proj": f"attention.{part}_proj" for part in ("q", "k", "v", "out")},
    "self_attn_layer_norm": "layer_norm",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
    "final_layer_norm": "final_layer_norm",
}
"""Modules of the encoder, and of a layer: fairseq's names -> Hugging Face's."""
PARAMETERS = {
    "mask_emb": "masked_spec_embed",
    "encoder.pos_conv.0.bias": "encoder.pos_conv_embed.conv.bias",
    "encoder.pos_conv.0.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv.0.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
PATTERNS = [
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(\w+)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(\w+)",
        r"feature_extractor.conv_layers.\1.layer_norm.\2",
    ),
    (r"encoder\.pos_conv\.(\d+)\.0\.(\w+)", r"encoder.pos_conv_embed.layers.\1.conv.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", r"encoder.layers.\1.attention.gru_rel_pos_const"),
]
SETTINGS = {
    "encoder_attention_heads": "num_attention_heads",
    "layer_norm_first": "do_stable_layer_norm",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layerdrop",
    "dropout_input": "feat_proj_dropout",
}
"""Options of fairseq that shapes do not show -> Hugging Face's."""
OPTIONS = (*SETTINGS, "activation_fn", "conv_feature_layers", "layer_type", "max_distance", "normalize")
"""All options that are looked at."""


def read_fairseq(state: dict[str, Tensor], options: dict[str, Any]) -> Converted:
    """The speech encoder in a checkpoint of fairseq.

    Args:
        state: the checkpoint's weights.
        options: what `fairseq_options` gives, or as much of it as shapes do not show.

    Raises:
        UserError: another model, or options that do not fit its shapes.
    """
    config, tensors, left_out = to_hf(state, options)
    converted = from_hf(config, tensors, "checkpoint")
    return converted._replace(left_out=left_out + converted.left_out)


def to_hf(
    state: dict[str, Tensor], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """As `read_fairseq`, in the terms of Hugging Face.

    Returns:
        The configuration, with `do_normalize` of the preprocessor; the weights; the names of what is left out.
    """
    left_out = []
    tensors = {}
    for name, tensor in state.items():
        found = _rename(name.removeprefix(FINE_TUNED))
        if found is None:
            left_out.append(name)
        else:
            tensors[found] = tensor
    return _config(tensors, options), tensors, left_out


def _rename(name: str) -> str | None:
    """Hugging Face's name; None for what is no part of the encoder."""
    if name in PARAMETERS:
        return PARAMETERS[name]
    for pattern, replacement in PATTERNS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    module, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"(encoder\.layers\.\d+\.)(.+)", module)
    prefix, module = (layer[1], layer[2]) if layer else ("", module)
    # A layer has no "layer_norm" of its own, the encoder no "fc1".
    is_top = module in ("layer_norm", "post_extract_proj", "encoder.layer_norm")
    return f"{prefix}{MODULES[module]}.{kind}" if module in MODULES and is_top != bool(prefix) else None


def fairseq_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the encoder, and whether its input is normalised.

    Args:
        content: what `toolkit.convert.safe.read_checkpoint` gave.

    Raises:
        UserError: they cannot be read.
    """
    try:
        found = plain(content.get("cfg")) or plain(content.get("args")) or {}
    except RecursionError:
        raise UserError("cfg: found options that hold themselves, expected those of fairseq") from None
    return _flat(found if isinstance(found, dict) else {})


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """One level: a recogniser's own options lie over those of the encoder that it was made from."""
    model = options.get("model")
    task = options.get("task")
    found = dict(model) if isinstance(model, dict) else dict(options)
    pretrained = found.get("w2v_args")
    if isinstance(pretrained, dict):
        # Dropout and the like are the recogniser's; the shape of the encoder is that of pretraining.
        found = _flat(pretrained)
    if isinstance(task, dict) and isinstance(task.get("normalize"), bool):
        found["normalize"] = task["normalize"]
    elif isinstance(options.get("normalize"), bool):
        found["normalize"] = options["normalize"]
    return found


def _config(tensors: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face's configuration, from shapes where they tell, else from options."""
    layers = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.layers\.(\d+)\.", name))}
    needed = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    if needed not in tensors or "feature_extractor.conv_layers.0.conv.weight" not in tensors:
        raise UserError(
            "found no encoder.layers.0.fc1.weight behind feature_extractor.conv_layers, expected HuBERT, "
            "wav2vec 2.0, WavLM or data2vec audio of fairseq"
        )
    for name, expected in (("activation_fn", "gelu"), ("layer_type", "transformer")):
        if (found := options.get(name, expected)) != expected:
            raise UserError(f"{name}: found {found!r}, expected {expected!r}")
    if "encoder_attention_heads" not in options:
        raise UserError("found no encoder_attention_heads among its options, which shapes do not tell")
    intermediate, hidden = tensors[needed].shape
    heads = options["encoder_attention_heads"]
    if not isinstance(heads, int) or heads < 1 or hidden % heads:
        raise UserError(f"encoder_attention_heads: found {heads!r}, expected a divisor of {hidden}")
    config = {
        "model_type": _model_type(tensors),
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "intermediate_size": intermediate,
        "do_stable_layer_norm": False,
        **_convolutions(tensors, options),
        **_positions(tensors, hidden),
        **{theirs: options[name] for name, theirs in SETTINGS.items() if name in options},
    }
    if config["model_type"] == "data2vec-audio" and config["do_stable_layer_norm"]:
        raise UserError("layer_norm_first: found True, expected False for data2vec audio")
    if config["model_type"] == "wavlm":
        buckets = len(tensors["encoder.layers.0.attention.rel_attn_embed.weight"])
        config |= {"num_buckets": buckets, "max_bucket_distance": options.get("max_distance", 800)}
    normalize = options.get("normalize", False)
    if normalize not in (True, False):
        raise UserError(f"normalize: found {normalize!r}, expected true or false")
    return config | {"do_normalize": bool(normalize)}


def _model_type(tensors: dict[str, Tensor]) -> str:
    if "encoder.layers.0.attention.rel_attn_embed.weight" in tensors:
        return "wavlm"
    if "encoder.pos_conv_embed.layers.0.conv.weight" in tensors:
        return "data2vec-audio"
    # One encoder under two names.
    return "hubert"


def _convolutions(tensors: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Any]:
    pattern = re.compile(r"feature_extractor\.conv_layers\.(\d+)\.(.+)")
    parts = {
        (int(match[1]), match[2]): t for name, t in tensors.items() if (match := pattern.fullmatch(name))
    }
    shapes = [list(parts[key].shape[::2]) for key in sorted(parts) if key[1] == "conv.weight"]
    wanted = parse_layers(str(options.get("conv_feature_layers", USUAL_LAYERS)))
    if shapes != [[channels, kernel] for channels, kernel, _ in wanted]:
        raise UserError(
            f"conv_feature_layers: found {wanted} (channels, kernel, stride), expected channels and kernels {shapes} "
            "as the weights have"
        )
    return {
        "conv_dim": [layer[0] for layer in wanted],
        "conv_kernel": [layer[1] for layer in wanted],
        "conv_stride": [layer[2] for layer in wanted],
        "conv_bias": (0, "conv.bias") in parts,
        "feat_extract_norm": "layer" if (len(shapes) - 1, "layer_norm.weight") in parts else "group",
    }


def _positions(tensors: dict[str, Tensor], hidden: int) -> dict[str, Any]:
    pattern = r"encoder\.pos_conv_embed\.layers\.\d+\.conv\.weight"
    deep = [tensor for name, tensor in tensors.items() if re.fullmatch(pattern, name)]
    single = tensors.get(PARAMETERS["encoder.pos_conv.0.weight_v"])
    if deep:
        return {
            "num_conv_pos_embeddings": len(deep),
            "conv_pos_kernel_size": deep[0].shape[2],
            "num_conv_pos_embedding_groups": hidden // deep[0].shape[1],
        }
    if single is None:
        raise UserError("found no encoder.pos_conv.0.weight_v, expected a convolution over positions")
    return {
        "num_conv_pos_embeddings": single.shape[2],
        "num_conv_pos_embedding_groups": hidden // single.shape[1],
    }

"""How Hugging Face's HuBERT, wav2vec 2.0, WavLM and data2vec audio name what is in our speech encoder."""

from typing import Any

from toolkit.models.base import SpeechConfig

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")

ENCODER_SETTINGS = {
    "hidden_size": "dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feed_forward_dim",
    "num_conv_pos_embedding_groups": "position_groups",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "input_dropout",
    "layerdrop": "layer_drop",
    "layer_norm_eps": "norm_epsilon",
}
"""Their keys -> ours, for all model types."""
SPECIAL_SETTINGS = {
    "hubert": {"num_conv_pos_embeddings": "position_kernel", "do_stable_layer_norm": "norm_first"},
    "wav2vec2": {"num_conv_pos_embeddings": "position_kernel", "do_stable_layer_norm": "norm_first"},
    "wavlm": {
        "num_conv_pos_embeddings": "position_kernel",
        "do_stable_layer_norm": "norm_first",
        "num_buckets": "bias_buckets",
        "max_bucket_distance": "bias_distance",
    },
    "data2vec-audio": {
        "num_conv_pos_embeddings": "position_layers",
        "conv_pos_kernel_size": "position_kernel",
    },
}
"""Further keys of a model type."""
FRONTEND_SETTINGS = {
    "conv_dim": "dims",
    "conv_kernel": "kernels",
    "conv_stride": "strides",
    "conv_bias": "bias",
    "feat_extract_norm": "norm",
}
"""Their keys -> ours; data2vec audio has no `feat_extract_norm`: it is always "layer"."""
FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""What our encoder has no setting for: their keys with the only value that it can be converted with."""


def settings_of(model_type: str) -> tuple[dict[str, str], dict[str, str]]:
    """Their keys -> ours for one of `MODEL_TYPES`: of the front end, and of the encoder."""
    frontend = dict(FRONTEND_SETTINGS)
    if model_type == "data2vec-audio":
        del frontend["feat_extract_norm"]
    return frontend, ENCODER_SETTINGS | SPECIAL_SETTINGS[model_type]


def parameter_names(config: SpeechConfig) -> dict[str, list[str]]:
    """The name of each parameter of `SpeechEncoder`, and theirs.

    Where several of theirs are given, they stand one after another in the rows of ours.
    """
    names = {}
    frontend: Any = config.frontend
    for index in range(len(frontend.dims)):
        layer = f"feature_extractor.conv_layers.{index}"
        norm = f"frontend.norms.{index}" if frontend.norm == "layer" else "frontend.convs.0.norm"
        names[f"frontend.convs.{index}.weight"] = [f"{layer}.conv.weight"]
        if frontend.bias:
            names[f"frontend.convs.{index}.bias"] = [f"{layer}.conv.bias"]
        if frontend.norm == "layer" or index == 0:
            names |= _module(norm, f"{layer}.layer_norm")
    return names | {f"encoder.{ours}": theirs for ours, theirs in _encoder_names(config.encoder).items()}


def _encoder_names(encoder: Any) -> dict[str, list[str]]:
    names = {
        "mask_embedding": ["masked_spec_embed"],
        **_module("embed_norm", "feature_projection.layer_norm"),
        **_module("project", "feature_projection.projection"),
        **_module("norm", "encoder.layer_norm"),
    }
    positions = "encoder.pos_conv_embed"
    if encoder.positions == "conv":
        names["positions.scale"] = [f"{positions}.conv.parametrizations.weight.original0"]
        names["positions.direction"] = [f"{positions}.conv.parametrizations.weight.original1"]
        names["positions.bias"] = [f"{positions}.conv.bias"]
    else:
        for index in range(encoder.position_layers):
            names |= _module(f"positions.convs.{index}", f"{positions}.layers.{index}.conv")
    if encoder.bias_buckets:
        # There the first layer holds what all layers share.
        names["relative_bias.embedding.weight"] = ["encoder.layers.0.attention.rel_attn_embed.weight"]
    for index in range(encoder.num_layers):
        layer = _layer_names(bool(encoder.bias_buckets))
        names |= {
            f"layers.{index}.{ours}": [f"encoder.layers.{index}.{name}" for name in theirs]
            for ours, theirs in layer.items()
        }
    return names


def _layer_names(gated: bool) -> dict[str, list[str]]:
    names = {
        f"attention.qkv.{kind}": [f"attention.{part}_proj.{kind}" for part in "qkv"]
        for kind in ("weight", "bias")
    }
    if gated:
        names["gate.constant"] = ["attention.gru_rel_pos_const"]
        names |= _module("gate.project", "attention.gru_rel_pos_linear")
    return {
        **names,
        **_module("attention.out", "attention.out_proj"),
        **_module("attention_norm", "layer_norm"),
        **_module("feed_forward.0", "feed_forward.intermediate_dense"),
        **_module("feed_forward.3", "feed_forward.output_dense"),
        **_module("feed_forward_norm", "final_layer_norm"),
    }


def _module(ours: str, theirs: str) -> dict[str, list[str]]:
    return {f"{ours}.{kind}": [f"{theirs}.{kind}"] for kind in ("weight", "bias")}

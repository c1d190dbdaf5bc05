"""Checkpoints as fairseq and UniLM write them, made of a random model of transformers."""

import argparse
import re

import torch
from torch import Tensor, nn

NAMES = [
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_projection\.projection", "post_extract_proj"),
    (r"^feature_projection\.layer_norm", "layer_norm"),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^encoder\.pos_conv_embed\.conv\.bias", "encoder.pos_conv.0.bias"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"encoder.pos_conv.\1.0."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"\.attention\.gru_rel_pos_const$", ".self_attn.grep_a"),
    (r"\.attention\.gru_rel_pos_linear\.", ".self_attn.grep_linear."),
    (r"\.attention\.rel_attn_embed\.", ".self_attn.relative_attention_bias."),
    (r"\.attention\.", ".self_attn."),
    (r"\.feed_forward\.intermediate_dense\.", ".fc1."),
    (r"\.feed_forward\.output_dense\.", ".fc2."),
]
LAYERS = "[(8, 10, 5)] + [(8,3,2)] * 2"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embedding_groups": 2,
}


def model_of(kind: str, large: bool) -> nn.Module:
    """A random model with transformers' names; "large" has norms before modules, layer norms and biases in front."""
    import transformers

    pair = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM", "data2vec": "Data2VecAudio"}[kind]
    size = {} if kind == "data2vec" else {"num_conv_pos_embeddings": 4}
    shape = {"conv_bias": True} if large else {}
    if large and kind != "data2vec":
        shape |= {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    config = getattr(transformers, f"{pair}Config")(**SIZES, **size, **shape)
    torch.manual_seed(2)
    model = getattr(transformers, f"{pair}Model")(config).eval()
    for parameter in model.parameters():  # no initial 0 or 1 shall hide a mistake
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def has_layer_norms(model: nn.Module) -> bool:
    """Whether every convolution in front is followed by a norm."""
    return "feature_extractor.conv_layers.1.layer_norm.weight" in model.state_dict()


def fairseq_state(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The weights under fairseq's names."""
    norm = r"\1.2.1" if has_layer_norms(model) else r"\1.2"
    state = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm", norm, name)
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        state[prefix + name] = tensor
    return state


def options(model: nn.Module) -> dict:
    """What fairseq would have stored about the model."""
    return {
        "extractor_mode": "layer_norm" if has_layer_norms(model) else "default",
        "encoder_layers": 3,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
        "layer_norm_first": getattr(model.config, "do_stable_layer_norm", False),
        "conv_feature_layers": LAYERS,
        "encoder_layerdrop": 0.05,
        "activation_fn": "gelu",
        "dropout": 0.1,
    }


def namespace(model: nn.Module, normalize: bool) -> dict:
    """A checkpoint of early fairseq, whose options are an argparse.Namespace."""
    args = argparse.Namespace(arch="wav2vec2", normalize=normalize, **options(model))
    return {
        "args": args,
        "cfg": None,
        "model": {**fairseq_state(model), **heads()},
        "last_optimizer_state": None,
    }


def heads() -> dict[str, Tensor]:
    """What stands beside a pretrained encoder."""
    return {
        "final_proj.weight": torch.zeros(2, 16),
        "label_embs_concat": torch.zeros(5, 2),
        "quantizer.vars": torch.zeros(1, 4, 2),
        "project_q.bias": torch.zeros(2),
        "target_glu.0.weight": torch.zeros(4, 2),
    }

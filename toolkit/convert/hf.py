"""HuBERT, wav2vec 2.0, WavLM and data2vec audio as Hugging Face's folders hold them, pretrained or fine-tuned."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit import checkpoint, config
from toolkit.convert.converted import Converted
from toolkit.convert.safe import read_checkpoint, state_dict
from toolkit.errors import UserError
from toolkit.files import read_json
from toolkit.models.base import SpeechConfig
from toolkit.models.hugging_face import FIXED, MODEL_TYPES, parameter_names, settings_of

DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_conv_pos_embedding_groups": 16,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.1,
    "layer_norm_eps": 1e-5,
    "do_stable_layer_norm": False,
    "num_conv_pos_embeddings": 128,
    "conv_pos_kernel_size": 19,
    "num_buckets": 320,
    "max_bucket_distance": 800,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
}
"""A config.json need not hold what has its default."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
PREFIXES = ("hubert.", "wav2vec2.", "wavlm.", "data2vec_audio.")
"""Before the names of an encoder that has a head."""
LEGACY = {".conv.weight_g": ".original0", ".conv.weight_v": ".original1"}
"""The two parts of a weight-normed weight in older files."""


def read_hf(folder: str | Path) -> Converted:
    """The speech encoder of a folder with config.json and weights.

    Weights are read from model.safetensors or pytorch_model.bin, in one file or several with an index.

    Raises:
        UserError: no such folder, another model, damaged files, or settings that our encoder does not have.
    """
    folder = Path(folder)
    path = folder / "config.json"
    settings = _read_mapping(path)
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        settings["do_normalize"] = normalize = _read_mapping(preprocessor).get("do_normalize", True)
        if not isinstance(normalize, bool):
            raise UserError(f"{preprocessor}: do_normalize: found {normalize!r}, expected true or false")
    return from_hf(settings, _read_weights(folder), str(path))


def from_hf(settings: dict[str, Any], tensors: dict[str, Tensor], where: str = "config.json") -> Converted:
    """The same from what the files hold; weights that are not among them are not in the result either.

    Args:
        settings: of config.json, and `do_normalize` of preprocessor_config.json (True if it is not there).
        tensors: the weights by Hugging Face's names, with a head or without.
        where: what to call the settings in messages.

    Raises:
        UserError: as `read_hf`.
    """
    speech = _speech(settings, where)
    names = {_plain(name): name for name in tensors}
    weights = {}
    for ours, theirs in parameter_names(speech).items():
        if all(name in names for name in theirs):
            parts = [tensors[names.pop(name)].float() for name in theirs]
            weights[ours] = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
        elif ours == "encoder.mask_embedding":
            # Models that mask nothing in training have none.
            weights[ours] = torch.zeros(speech.encoder.dim)
    return Converted(config.to_dict(speech), weights, sorted(names.values()))


def _speech(settings: dict[str, Any], where: str) -> SpeechConfig:
    model_type = settings.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UserError(
            f"{where}: model_type: found {model_type!r}, expected one of {', '.join(MODEL_TYPES)}"
        )
    for key, expected in FIXED.items():
        if (found := settings.get(key, expected)) != expected:
            raise UserError(f"{where}: {key}: found {found!r}, expected {expected!r}")
    given = DEFAULTS | settings
    if model_type == "data2vec-audio":
        given = DEFAULTS | {"num_conv_pos_embeddings": 5} | settings
    of_frontend, of_encoder = settings_of(model_type)
    frontend = {ours: given[theirs] for theirs, ours in of_frontend.items()}
    encoder = {ours: given[theirs] for theirs, ours in of_encoder.items()}
    if model_type == "data2vec-audio":
        frontend["norm"] = "layer"
        encoder["positions"] = "conv_stack"
    frontend |= {"name": "waveform", "normalize": settings.get("do_normalize", True)}
    raw = {"frontend": frontend, "encoder": {"name": "transformer", **encoder}}
    return config.build(SpeechConfig, raw, where)


def _plain(name: str) -> str:
    """A name as that of an encoder without a head, in a file of today."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in LEGACY.items():
        if name.endswith(f"pos_conv_embed{old}"):
            name = name.removesuffix(old) + ".conv.parametrizations.weight" + new
    return name


def _read_weights(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = _read_mapping(index).get("weight_map")
            # Files beside the index, and none elsewhere.
            if not isinstance(parts, dict) or any(part != Path(str(part)).name for part in parts.values()):
                raise UserError(f"{index}: weight_map: expected a mapping of weights to files of this folder")
            return {
                name: tensor
                for part in sorted(set(parts.values()))
                for name, tensor in _read_file(folder / part).items()
            }
    raise UserError(f"{folder}: found no weights, expected {' or '.join(WEIGHT_FILES)}, or their index")


def _read_mapping(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected a mapping")
    return found


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return checkpoint.load(path)[0]
    return state_dict(read_checkpoint(path), path)[0]

"""Speech encoders as folders that Hugging Face's transformers loads with `from_pretrained`."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from toolkit import config
from toolkit.errors import UserError
from toolkit.files import atomic_write, write_json
from toolkit.models.adaptation import is_added
from toolkit.models.base import SpeechConfig
from toolkit.models.hugging_face import FIXED, MODEL_TYPES, parameter_names, settings_of

CLASSES = dict(
    zip(MODEL_TYPES, ("HubertModel", "Wav2Vec2Model", "WavLMModel", "Data2VecAudioModel"), strict=True)
)


def write_hf(
    folder: str | Path, speech: SpeechConfig, weights: dict[str, Tensor], model_type: str | None = None
) -> None:
    """Writes config.json, preprocessor_config.json and, last, model.safetensors.

    Args:
        folder: where to; made if need be.
        speech: configuration of the encoder.
        weights: the state of its `SpeechEncoder`.
        model_type: "wav2vec2" for an encoder that is to go by this name; else HuBERT, which has the same weights, or
            WavLM or data2vec audio, as the settings have it.

    Raises:
        UserError: an encoder or settings that Hugging Face has no model for.
    """
    settings = hf_settings(speech, model_type)
    if added := next(filter(is_added, weights), None):
        raise UserError(
            f"init.adaptation: found {added} in the encoder, for which Hugging Face's models have no place"
        )
    tensors = {}
    for ours, theirs in parameter_names(speech).items():
        for name, part in zip(theirs, weights[ours].chunk(len(theirs)), strict=True):
            tensors[name] = part.detach().cpu().float().contiguous().clone()
    folder = Path(folder)
    write_json(folder / "config.json", settings)
    write_json(
        folder / "preprocessor_config.json",
        {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "sampling_rate": speech.frontend.sample_rate,
            "do_normalize": speech.frontend.normalize,
            "padding_side": "right",
            "padding_value": 0.0,
            # What transformers' group norm sees of padding no attention mask undoes.
            "return_attention_mask": speech.frontend.norm == "layer",
        },
    )
    with atomic_write(folder / "model.safetensors", "wb") as file:
        file.write(save(tensors, {"format": "pt"}))


def hf_settings(speech: SpeechConfig, model_type: str | None = None) -> dict[str, Any]:
    """What config.json is to hold; arguments and errors as those of `write_hf`."""
    model_type = model_type or _model_type(speech)
    _check(speech, model_type)
    of_frontend, of_encoder = settings_of(model_type)
    frontend, encoder = config.to_dict(speech.frontend), config.to_dict(speech.encoder)
    return {
        "architectures": [CLASSES[model_type]],
        "model_type": model_type,
        **{theirs: frontend[ours] for theirs, ours in of_frontend.items()},
        **{theirs: encoder[ours] for theirs, ours in of_encoder.items()},
        "hidden_act": FIXED["hidden_act"],
        "feat_extract_activation": FIXED["feat_extract_activation"],
        "dtype": "float32",
    }


def _model_type(speech: SpeechConfig) -> str:
    if getattr(speech.encoder, "bias_buckets", 0):
        return "wavlm"
    return "data2vec-audio" if getattr(speech.encoder, "positions", "") == "conv_stack" else "hubert"


def _check(speech: SpeechConfig, model_type: str) -> None:
    if speech.encoder.name != "transformer" or speech.frontend.name != "waveform":
        raise UserError(
            f"speech: found front end {speech.frontend.name!r} and encoder {speech.encoder.name!r}, expected "
            "'waveform' and 'transformer': Hugging Face has no model of the other kind"
        )
    expected = {
        "positions": "conv_stack" if model_type == "data2vec-audio" else "conv",
        **({"norm_first": False, "bias_buckets": 0} if model_type == "data2vec-audio" else {}),
        **({"bias_buckets": 0} if model_type in ("hubert", "wav2vec2") else {}),
    }
    for key, wanted in expected.items():
        if (found := getattr(speech.encoder, key)) != wanted:
            raise UserError(f"speech.encoder.{key}: found {found!r}, expected {wanted!r} for {model_type}")
    if model_type == "data2vec-audio" and speech.frontend.norm != "layer":
        raise UserError(
            f"speech.frontend.norm: found {speech.frontend.norm!r}, expected 'layer' for {model_type}"
        )

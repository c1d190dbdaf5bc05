"""Encoders of published sizes, by name: `SpeechConfig` as plain dictionaries."""

from typing import Any

# Zipformer: as icefall's recipes for recognition have them (small, medium, large), and k2SSL's (arXiv 2411.17100).
SMALL = {
    "num_layers": [2],
    "dims": [192, 256, 256, 256, 256, 256],
    "unmasked_dims": [192],
    "feed_forward_dims": [512, 768, 768, 768, 768, 768],
}
MEDIUM = {
    "num_layers": [2, 2, 3, 4, 3, 2],
    "dims": [192, 256, 384, 512, 384, 256],
    "unmasked_dims": [192, 192, 256, 256, 256, 192],
    "feed_forward_dims": [512, 768, 1024, 1536, 1024, 768],
}
LARGE = {
    "num_layers": [2, 2, 4, 5, 4, 2],
    "dims": [192, 256, 512, 768, 512, 256],
    "unmasked_dims": [192, 192, 256, 320, 256, 192],
    "feed_forward_dims": [512, 768, 1536, 2048, 1536, 768],
}
SSL_BASE = MEDIUM | {"dims": [192, 256, 448, 768, 448, 192]}
SSL_LARGE = {
    "num_layers": [2, 2, 4, 5, 4, 2],
    "dims": [256, 512, 768, 1024, 768, 512],
    "unmasked_dims": [256, 256, 256, 320, 256, 256],
    "feed_forward_dims": [768, 1536, 2048, 3072, 2048, 1536],
}


def recognition(sizes: dict[str, Any]) -> dict[str, Any]:
    """A Zipformer on filter banks, 25 frames a second."""
    frontend = {"name": "fbank", "normalize": False}
    return {"frontend": frontend, "encoder": {"name": "zipformer", "embed": "conv2d", **sizes}}


def pretraining(
    sizes: dict[str, Any], normalize: bool, dropout: float, feature_grad_mult: float
) -> dict[str, Any]:
    """A Zipformer on learned features, 50 frames a second."""
    frontend = {"name": "waveform", "normalize": normalize, "feature_grad_mult": feature_grad_mult}
    encoder = {"name": "zipformer", "embed": "linear", "output_downsampling": 1, "input_dropout": dropout}
    return {"frontend": frontend, "encoder": encoder | sizes}


ZIPFORMER = {
    "zipformer-base": pretraining(SSL_BASE, normalize=False, dropout=0.1, feature_grad_mult=0.1),
    "zipformer-large": pretraining(SSL_LARGE, normalize=True, dropout=0.0, feature_grad_mult=1.0),
    "zipformer-base-fbank": {
        "frontend": {"name": "fbank"},
        "encoder": {"name": "zipformer", "embed": "conv2d", "output_downsampling": 1, **SSL_BASE},
    },
    "zipformer-asr-small": recognition(SMALL),
    "zipformer-asr-medium": recognition(MEDIUM),
    "zipformer-asr-large": recognition(LARGE),
}

# Transformers on learned features, with the regularisation of their pretraining.
BASE = {"dropout": 0.1, "attention_dropout": 0.1, "input_dropout": 0.1, "layer_drop": 0.05}
DEEP = {
    "dim": 1024,
    "num_layers": 24,
    "num_heads": 16,
    "feed_forward_dim": 4096,
    "norm_first": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "input_dropout": 0.0,
    "layer_drop": 0.0,
}
STACK = {"positions": "conv_stack", "position_layers": 5, "position_kernel": 19}
GATED = {"bias_buckets": 320, "bias_distance": 800}


def transformer(
    encoder: dict[str, Any], norm: str = "group", bias: bool = False, normalize: bool = True
) -> dict[str, Any]:
    """A Transformer on learned features, 50 frames a second."""
    grad = 0.1 if norm == "group" else 1.0
    frontend = {
        "name": "waveform",
        "norm": norm,
        "bias": bias,
        "normalize": normalize,
        "feature_grad_mult": grad,
    }
    return {"frontend": frontend, "encoder": {"name": "transformer", **encoder}}


# HuBERT: arXiv 2106.07447; wav2vec 2.0: arXiv 2006.11477, the large one as it was pretrained on 60,000 hours; WavLM:
# arXiv 2110.13900; data2vec: arXiv 2202.03555.
TRANSFORMER = {
    "hubert-base": transformer(BASE),
    "hubert-large": transformer(DEEP, "layer", bias=True),
    "hubert-xlarge": transformer(
        DEEP | {"dim": 1280, "num_layers": 48, "feed_forward_dim": 5120}, "layer", bias=True
    ),
    "wav2vec2-base": transformer(BASE),
    "wav2vec2-large": transformer(DEEP, "layer", bias=True),
    "wavlm-base": transformer(BASE | GATED, normalize=False),
    "wavlm-large": transformer(DEEP | GATED, "layer"),
    "data2vec-audio-base": transformer(BASE | STACK | {"input_dropout": 0.0}, "layer"),
    "data2vec-audio-large": transformer(DEEP | STACK | {"norm_first": False}, "layer"),
}

PUBLISHED: dict[str, dict[str, Any]] = {**ZIPFORMER, **TRANSFORMER}

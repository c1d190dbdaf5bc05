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

PUBLISHED: dict[str, dict[str, Any]] = {**ZIPFORMER}

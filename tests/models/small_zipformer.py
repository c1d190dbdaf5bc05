"""A Zipformer small enough for tests, with a stack of every kind."""

import torch

from toolkit.models.zipformer.config import ZipformerConfig
from toolkit.models.zipformer.encoder import ZipformerEncoder

FEATURES = {"conv2d": 20, "stack": 10, "linear": 12, "none": 16}


def make_config(**changes):
    sizes = {
        "downsampling": [1, 2, 8],
        "num_layers": [1, 2, 1],
        "dims": [16, 24, 20],
        "unmasked_dims": [16, 16, 12],
        "feed_forward_dims": [24],
        "num_heads": [2],
        "kernel_sizes": [5, 7, 5],
        "query_head_dims": [4],
        "value_head_dims": [4],
        "pos_dim": 8,
        "chunk_size": 8,
        "left_context": 16,
        "chunk_sizes": [8, 16, -1],
        "left_contexts": [16, -1],
    }
    return ZipformerConfig(**sizes | changes)


def make_encoder(**changes):
    """In evaluation, its parameters off their initial values, so that no zero or one hides a mistake."""
    config = make_config(**changes)
    torch.manual_seed(0)
    encoder = ZipformerEncoder(config, FEATURES[config.embed]).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder

"""Recognisers small enough to be made in each test file, which say many different things."""

import torch

from toolkit.config import build
from toolkit.tasks.asr import AsrConfig, AsrTask
from toolkit.tasks.load import save_model

CONFORMER = {
    "speech": {
        "encoder": {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}
    }
}
CAUSAL = {
    "speech": {
        "frontend": {"normalize": False},
        "encoder": {
            "name": "zipformer",
            "causal": True,
            "embed": "stack",
            "downsampling": [1, 2],
            "num_layers": [1],
            "dims": [16],
            "unmasked_dims": [16],
            "feed_forward_dims": [24],
            "num_heads": [2],
            "kernel_sizes": [5],
            "output_downsampling": 1,
            "chunk_size": 8,
            "left_context": 32,
        },
    },
    "transducer": {"scale": 1.0, "joiner_dim": 16, "predictor": {"dim": 16}},
}
"""It can be streamed, and has CTC and a transducer."""


def save_recognizer(folder, settings, seed=0, blank=0.0):
    """Writes a model directory; `blank` is added to the biases of the blank: more for less that is said."""
    raw = {"data": {"train": "synthetic:5"}, **settings}
    task = AsrTask(build(AsrConfig, raw, "test"), folder, 0)
    task.prepare()
    torch.manual_seed(seed)
    model = task.build_model()
    heads = [model.ctc[1]]
    if model.transducer is not None:
        heads.append(model.transducer.joiner.output)
    for head in heads:
        # An untrained model says next to nothing.
        torch.nn.init.normal_(head.weight, std=2.0)
        with torch.no_grad():
            head.bias[0] += blank
    save_model(folder, model, task.config)
    return folder

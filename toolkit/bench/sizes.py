"""Parameters and arithmetic of the published models."""

from typing import Any

import torch

from toolkit import config
from toolkit.bench.measure import count_flops
from toolkit.models.base import SpeechConfig, SpeechEncoder
from toolkit.models.published import PUBLISHED

SECONDS = 15
"""Attention takes more a second of audio, the longer an utterance is."""


def sizes(names: list[str]) -> list[dict[str, Any]]:
    """A row for each model: name, parameters, frames a second, operations for a second of audio."""
    rows = []
    for name in names:
        speech = SpeechEncoder(config.build(SpeechConfig, PUBLISHED[name], name)).eval()
        audio, lengths = torch.randn(1, 16000 * SECONDS), torch.tensor([16000 * SECONDS])
        with torch.no_grad():
            flops = count_flops(lambda speech=speech: speech(audio, lengths))  # noqa: B023  # called at once
        rows.append(
            {
                "model": name,
                "parameters": sum(p.numel() for p in speech.parameters()),
                "frames_per_second": 1 / speech.frame_shift,
                "gflop_per_second": flops / SECONDS / 1e9,
            }
        )
    return rows

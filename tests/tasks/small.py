"""A small encoder, and a short training on one batch: what the tests of several tasks share."""

from typing import Any

import torch

ENCODER = {
    "dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_dim": 32,
    "kernel_size": 5,
    "subsampling_channels": 4,
    "dropout": 0.0,
}
SMALLER_ENCODER = {"dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 16, "kernel_size": 3}


def learn(task: Any, model: torch.nn.Module, batch: Any, updates: int, lr: float) -> list[dict[str, float]]:
    """Learns one batch by heart with Adam; the mean loss ("loss") and statistics of each update, before it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    rows = []
    for _ in range(updates):
        loss, stats, weight = task.loss(model, batch)
        optimizer.zero_grad()
        (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        rows.append({name: (value / weight).item() for name, value in {"loss": loss, **stats}.items()})
    return rows

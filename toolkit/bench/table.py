"""Measurements as a Markdown table."""

from collections.abc import Callable
from typing import Any

COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "system": ("system", str),
    "model": ("model", str),
    "parameters": ("parameters", lambda value: f"{value / 1e6:.2f} M"),
    "frames_per_second": ("frames/s", lambda value: f"{value:g}"),
    "gflop_per_second": ("GFLOP per second of audio", lambda value: f"{value:.2f}"),
    "search": ("search", str),
    "encoder": ("encoder", lambda value: "" if value is None else f"{value:.2f} s"),
    "searching": ("search alone", lambda value: "" if value is None else f"{value:.2f} s"),
    "real_time_factor": ("real-time factor", lambda value: f"{value:.4f}"),
    "loss": ("loss", str),
    "shape": ("batch", str),
    "forward": ("forward", lambda value: f"{value:.3f} s"),
    "backward": ("backward", lambda value: f"{value:.3f} s"),
    "optimiser": ("optimiser", lambda value: f"{value:.3f} s"),
    "step": ("step", lambda value: f"{value:.3f} s"),
    "audio_per_second": ("audio s/s", lambda value: f"{value:.1f}"),
    "memory": ("peak memory", lambda value: f"{value / 2**30:.2f} GiB"),
    "flops_per_second": ("GFLOP/s", lambda value: f"{value / 1e9:.0f}"),
    "utilisation": ("utilisation", lambda value: f"{value:.0%}"),
    "above_inputs": ("memory above the inputs", lambda value: f"{value / 2**20:.0f} MiB"),
    "floor_ratio": ("time / floor", lambda value: "" if value is None else f"{value:.2f}"),
    "step_ratio": ("time / peer's", lambda value: f"{value:.2f}"),
    "memory_ratio": ("memory / peer's", lambda value: f"{value:.2f}"),
    "padding": ("padding", lambda value: f"{value:.1%}"),
    "batch_seconds": ("audio s a batch", lambda value: f"{value:.1f}"),
    "workers": ("workers", str),
}
"""Key of a row -> heading, and how its values are written."""


def show(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as a table."""
    columns = [COLUMNS[key] for key in rows[0]]
    lines = [
        [heading for heading, _ in columns],
        ["---" if i == 0 else "---:" for i in range(len(columns))],
        *([write(value) for (_, write), value in zip(columns, row.values(), strict=True)] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

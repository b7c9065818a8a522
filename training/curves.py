"""Loss and accuracy over the epochs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.checkpoint import write_bytes


def draw_curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Draw loss and accuracy of training and validation side by side."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = [line["epoch"] for line in history]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part in ("train", "validation"):
            axes.plot(epochs, [line[f"{part}_{quantity}"] for line in history], label=part, marker=".")
        axes.set_xlabel("epoch")
        axes.set_title(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the curves as PNG, atomically."""
    buffer = io.BytesIO()
    draw_curves(history).savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())

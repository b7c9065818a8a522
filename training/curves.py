"""Loss and accuracy over the epochs, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.checkpoint import write_bytes

QUANTITIES = {"loss": "loss, nats", "accuracy": "accuracy"}
"""What is drawn, with the label of its axis."""


def draw_curves(history: Sequence[dict[str, Any]], *quantities: str) -> Figure:
    """Draw quantities of training and validation by epoch side by side."""
    figure = Figure(figsize=(5 * len(quantities), 3.75), layout="constrained")
    epochs = [line["epoch"] for line in history]
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        for part in ("train", "validation"):
            axes.plot(epochs, [line[f"{part}_{quantity}"] for line in history], label=part, marker=".")
        axes.set_xlabel("epoch")
        axes.set_ylabel(QUANTITIES[quantity])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def plot_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the curves as PNG, atomically."""
    buffer = io.BytesIO()
    draw_curves(history, *QUANTITIES).savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())

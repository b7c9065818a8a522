"""Pictures of an evaluation."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from bundle.manifest import Drift
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from training.evaluate import ECE_BINS, Evaluation, Floats, Integers

ANNOTATED_CLASSES = 20
"""A confusion matrix with more classes shows colours only."""


def as_svg(figure: Figure) -> str:
    """Return a figure as a `data:` address that a page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_confusion(evaluation: Evaluation, labels: Sequence[str]) -> Figure:
    """Draw the confusion matrix: rows are true classes, columns answers, shades the share of the row."""
    counts = np.array(evaluation.confusion)
    side = min(9.0, 3.0 + 0.25 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    if len(labels) <= ANNOTATED_CLASSES:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    return figure


def draw_reliability(probabilities: Floats, targets: Integers) -> Figure:
    """Draw how often answers of each confidence are right; on the diagonal, confidence can be taken at its word."""
    confidence = np.clip(probabilities.max(axis=1), 0.0, 1.0)
    right = probabilities.argmax(axis=1) == targets
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="confidence at its word")
    if len(np.unique(right)) == 2:
        accuracy, mean = calibration_curve(right, confidence, n_bins=ECE_BINS)
        axes.plot(mean, accuracy, marker="o", label="share right")
    weights = np.full(len(confidence), 1 / len(confidence))
    axes.hist(confidence, bins=ECE_BINS, range=(0, 1), weights=weights, alpha=0.3, label="share of the answers")
    axes.set_xlabel("confidence")
    axes.set_ylabel("share")
    axes.legend(loc="upper left")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


def draw_drift(drift: Drift) -> Figure:
    """Draw what a bundle remembers of its validation images: four histograms and the classes it answered."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, name in zip(panels, ("brightness", "contrast", "sharpness", "confidence"), strict=False):
        histogram = getattr(drift, name)
        axes.stairs(histogram.counts, histogram.edges, fill=True, alpha=0.6)
        axes.set_title(name)
    panels[2].set_xscale("symlog")
    panels[4].bar(range(len(drift.predicted)), list(drift.predicted.values()), alpha=0.6)
    panels[4].set_title("predicted class")
    if len(drift.predicted) <= ANNOTATED_CLASSES:
        panels[4].set_xticks(range(len(drift.predicted)), list(drift.predicted), rotation=45, ha="right")
    panels[5].set_axis_off()
    return figure

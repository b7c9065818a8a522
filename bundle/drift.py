"""The statistics of an image that drift is judged by, and the histograms that a bundle remembers of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.manifest import Drift, Histogram

BRIGHTNESS_EDGES = tuple(float(e) for e in range(0, 257, 16))
CONTRAST_EDGES = tuple(float(e) for e in range(0, 129, 8))
SHARPNESS_EDGES = (0.0, *(float(2**e) for e in range(18)))
CONFIDENCE_EDGES = tuple(round(e * 0.05, 2) for e in range(21))
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """Brightness and contrast: mean and standard deviation of luma, 0..255. Sharpness: variance of its Laplacian."""

    brightness: float
    contrast: float
    sharpness: float


def measure(pixels: npt.NDArray[np.uint8]) -> ImageStatistics:
    """Measure uint8 [height, width, channels] as it enters the graph. Luma as in ITU-R BT.601."""
    luma = pixels.astype(np.float32) @ _LUMA if pixels.shape[2] == 3 else pixels[:, :, 0].astype(np.float32)
    sharpness = 0.0
    if min(luma.shape) >= 3:
        sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        sharpness = float((sides - 4 * luma[1:-1, 1:-1]).var())
    return ImageStatistics(float(luma.mean()), float(luma.std()), sharpness)


def histogram(values: Iterable[float], edges: tuple[float, ...]) -> Histogram:
    """Count values between edges; what lies outside counts in the first or the last bin."""
    clipped = np.clip(np.fromiter(values, np.float64), edges[0], edges[-1])
    counts, _ = np.histogram(clipped, bins=np.array(edges))
    return Histogram(edges=edges, counts=tuple(int(c) for c in counts))


def baseline(
    images: Iterable[npt.NDArray[np.uint8]], probabilities: npt.NDArray[np.float32], labels: tuple[str, ...]
) -> Drift:
    """Summarise validation images and what the model answered for them, probabilities [n, classes]."""
    measured = [measure(pixels) for pixels in images]
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=len(labels))
    return Drift(
        n=len(measured),
        brightness=histogram((m.brightness for m in measured), BRIGHTNESS_EDGES),
        contrast=histogram((m.contrast for m in measured), CONTRAST_EDGES),
        sharpness=histogram((m.sharpness for m in measured), SHARPNESS_EDGES),
        confidence=histogram(probabilities.max(axis=1).tolist(), CONFIDENCE_EDGES),
        predicted={label: int(count) for label, count in zip(labels, predicted, strict=True)},
    )

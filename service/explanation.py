"""Which parts of an image spoke for a class: occlusion, and drawing a map over the pixels that the network saw.

Occlusion after Zeiler and Fergus 2014: grey out one part at a time and see how far the probability falls.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
GRID = 7
"""Occlusion covers GRID x GRID parts (fewer where the image has fewer pixels)."""
_SHOWN = 224
"""Drawings are at least this many pixels high and wide."""


def occluded(pixels: Pixels) -> Pixels:
    """Return uint8 [1 + rows x columns, h, w, c]: the image, then a copy for each part with its mean color there."""
    bounds_y, bounds_x = _bounds(pixels)
    mean = pixels.reshape(-1, pixels.shape[2]).mean(axis=0).round().astype(np.uint8)
    copies = [pixels]
    for top, bottom in bounds_y:
        for left, right in bounds_x:
            copy = pixels.copy()
            copy[top:bottom, left:right] = mean
            copies.append(copy)
    return np.stack(copies)


def occlusion_map(pixels: Pixels, probabilities: npt.NDArray[np.float32], index: int) -> Map:
    """Return float32 [rows, columns]: how much the class loses where a part is covered; see `occluded`."""
    bounds_y, bounds_x = _bounds(pixels)
    fall = probabilities[0, index] - probabilities[1:, index]
    heat: Map = fall.reshape(len(bounds_y), len(bounds_x)).astype(np.float32)
    return heat


def _bounds(pixels: Pixels) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    def cut(length: int) -> list[tuple[int, int]]:
        edges = np.linspace(0, length, min(GRID, length) + 1).round().astype(int).tolist()
        return list(itertools.pairwise(edges))

    return cut(pixels.shape[0]), cut(pixels.shape[1])


def picture(pixels: Pixels) -> Image.Image:
    """Return the network's pixels, uint8 [h, w, 1 or 3], as an image."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def overlay(pixels: Pixels, heat: Map, opacity: float = 0.5) -> Image.Image:
    """Draw a map [rows, columns] over the pixels, from blue (nothing, or against the class) to red (most for it)."""
    image = picture(pixels).convert("RGB")
    scale = max(1, -(-_SHOWN // min(image.size)))
    size = (image.width * scale, image.height * scale)
    strength = np.clip(heat, 0.0, None)
    strength = strength / strength.max() if strength.max() > 0 else strength
    levels = Image.fromarray((strength * 255).round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    colors = Image.fromarray(_colors(np.asarray(levels, np.float32) / np.float32(255)))
    return Image.blend(image.resize(size, Image.Resampling.NEAREST), colors, opacity)


def _colors(level: Map) -> Pixels:
    """Map 0..1 to blue, cyan, yellow, red."""
    centers = np.array([3.0, 2.0, 1.0], np.float32)
    colors: Pixels = (np.clip(1.5 - np.abs(4 * level[..., None] - centers), 0, 1) * 255).round().astype(np.uint8)
    return colors


def png_of(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()

"""The images that are sent: scikit-learn's two photographs at the sizes of the benchmark."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image
from sklearn.datasets import load_sample_images

QUALITY = 90


@dataclass(frozen=True)
class Input:
    """One encoded image and what it is called in the tables."""

    name: str
    body: bytes
    content_type: str


def photograph(width: int, height: int) -> Input:
    """Return a JPEG of the given size, cropped to its aspect ratio from a real photograph and resampled."""
    image = Image.fromarray(load_sample_images().images[0])
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return _encode(image.resize((width, height), Image.Resampling.LANCZOS, box=box), "JPEG", quality=QUALITY)


def thumbnail(side: int) -> Input:
    """Return a small square PNG of a real photograph."""
    image = Image.fromarray(load_sample_images().images[1])
    return _encode(image.resize((side, side), Image.Resampling.LANCZOS, box=(107, 0, 534, 427)), "PNG")


def _encode(image: Image.Image, image_format: str, **options: int) -> Input:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    name = f"{image_format} {image.width}x{image.height}"
    return Input(name, buffer.getvalue(), f"image/{image_format.lower()}")

"""The pipeline that tutorials show, with Pillow alone: decode, resize the shorter side to 256, crop 224, normalise."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def plain(data: bytes) -> npt.NDArray[np.uint8]:
    """Run the pipeline and return its crop; the normalised floats are made and dropped."""
    pixels = plain_pixels(data)
    np.ascontiguousarray(((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
    return pixels


def plain_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode, resize and crop; return uint8 [224, 224, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))

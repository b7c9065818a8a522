"""Sources that hold arrays, not files: each image is encoded losslessly as PNG, so all else sees files only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from training.data.dataset import Item


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 [height, width] or [height, width, 3] losslessly; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def array_items(images: npt.NDArray[np.uint8], targets: npt.NDArray[np.integer], origin: str) -> Iterator[Item]:
    """Yield an item for each image of uint8 [n, height, width(, 3)]; it is encoded again when it is read."""
    for index, (pixels, target) in enumerate(zip(images, targets, strict=True)):
        read: Callable[[], bytes] = partial(encode_png, pixels)
        yield Item(read, hashlib.sha256(read()).hexdigest(), int(target), f"{origin}[{index}]")


def read_digits() -> tuple[list[str], list[Item]]:
    """Return the 1,797 handwritten digits that scikit-learn ships, 8x8, their 0..16 scaled to 0..255."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [str(name) for name in digits.target_names], list(array_items(images, digits.target, "digits"))

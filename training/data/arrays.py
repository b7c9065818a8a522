"""Sources that hold arrays, not files: each image is encoded losslessly as PNG, so all else sees files only.

Their content hash is that of the pixels: the bytes of a PNG depend on the versions of Pillow and zlib, and an image
must stay in its split whatever wrote it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from bundle.errors import ImageError
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess
from PIL import Image
from sklearn.datasets import load_digits

from training.data.dataset import Item, file_digest


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 [height, width] or [height, width, 3] losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def array_items(images: npt.NDArray[np.uint8], targets: npt.NDArray[np.integer], origin: str) -> Iterator[Item]:
    """Yield an item for each image of uint8 [n, height, width(, 3)]; it is encoded when it is read."""
    for index, (pixels, target) in enumerate(zip(images, targets, strict=True)):
        read: Callable[[], bytes] = partial(encode_png, pixels)
        yield Item(read, pixels_digest(pixels), int(target), f"{origin}[{index}]")


def pixels_digest(pixels: npt.NDArray[np.uint8]) -> str:
    """Return the SHA-256 of `height x width x channels`, a line end and the bytes of uint8 [height, width(, channels)].

    Neither an encoder nor the memory layout of the array has a say in it.
    """
    height, width, *channels = pixels.shape
    shape = f"{height}x{width}x{channels[0] if channels else 1}\n".encode()
    return hashlib.sha256(shape + np.asarray(pixels, np.uint8).tobytes()).hexdigest()


def digest_of_pixels_in(file: bytes, color: Literal["rgb", "grey"]) -> str:
    """Return `pixels_digest` of an encoded image, so that a copy of an array's image is known as one.

    A file that cannot be decoded has the hash of its bytes.
    """
    whole = Preprocessing(
        resize="none",
        resize_size=None,
        crop_size=None,
        interpolation="nearest",
        color=color,
        orientation="exif",
        alpha_background=(255, 255, 255),
        jpeg_draft=False,
    )
    try:
        return pixels_digest(preprocess(file, whole).pixels)
    except ImageError:
        return file_digest(file)


def read_digits() -> tuple[list[str], list[Item]]:
    """Return the 1,797 handwritten digits that scikit-learn ships, 8x8, their 0..16 scaled to 0..255."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [str(name) for name in digits.target_names], list(array_items(images, digits.target, "digits"))

"""How each kind of pixel becomes RGB or grey: the declared rules, one per Pillow mode.

No color profile is applied and no gamma undone: training reads its images by the same rules.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from bundle.decode import InputInfo
from bundle.errors import ImageUnsupportedMode
from bundle.manifest import Preprocessing

_PLAIN = ("1", "L", "P", "RGB", "RGBX", "YCbCr")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Modes that hold one wide sample a pixel."""


def is_sixteen_bit(image: Image.Image) -> bool:
    """Tell, before an image is decoded, whether Pillow will cut its color samples from 16 to 8 bits."""
    return any(";16" in str(tile.args) for tile in image.tile) if hasattr(image, "tile") else False


def convert(image: Image.Image, recipe: Preprocessing, info: InputInfo) -> Image.Image:
    """Return the image as RGB or L, by the recipe, and note what was lost. Raises `ImageUnsupportedMode`.

    Grey is ITU-R 601-2 luma: L = (19595 R + 38470 G + 7471 B + 32768) >> 16.
    """
    target = "RGB" if recipe.color == "rgb" else "L"
    if image.mode == target and "transparency" not in image.info:
        return image
    if image.mode in SIXTEEN_BIT:
        image = _high_byte(image, info)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = _flatten(image, recipe.alpha_background, info)
    elif image.mode == "CMYK":
        info.notes.append("CMYK converted to RGB without a color profile")
        image = image.convert("RGB")
    elif image.mode not in _PLAIN:
        raise ImageUnsupportedMode(f"{info.format} pixels of mode {image.mode} have no declared conversion.")
    if image.mode == "P":
        image = image.convert("RGB")
    return image if image.mode == target else image.convert(target)


def _high_byte(image: Image.Image, info: InputInfo) -> Image.Image:
    """Keep the high byte of each 16-bit sample, as Pillow does for color; a transparent value becomes alpha."""
    wide = np.asarray(image).astype(np.int64)
    if wide.min() < 0 or wide.max() > 65_535:
        raise ImageUnsupportedMode(f"{info.format} samples wider than 16 bits have no declared conversion.")
    note_sixteen_bit(info)
    grey = Image.fromarray((wide >> 8).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8))))


def note_sixteen_bit(info: InputInfo) -> None:
    """Record that 16-bit samples lost their low byte."""
    info.notes.append("16-bit reduced to 8-bit")


def _flatten(image: Image.Image, background: tuple[int, int, int], info: InputInfo) -> Image.Image:
    """Lay the image on the background: (alpha x pixel + (255 - alpha) x background) / 255, rounded."""
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    info.notes.append("transparency flattened on rgb({}, {}, {})".format(*background))
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=alpha)
    return flat

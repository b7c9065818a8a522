"""From encoded bytes to the uint8 array that enters the sealed graph: the only decoder in the project.

Training's evaluation, `verify` and the service all call `preprocess`, so what one of them sees, all see.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from bundle.errors import (
    ImageEmpty,
    ImageError,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageTruncated,
    ImageUnsupportedFormat,
    ImageUnsupportedMode,
)
from bundle.manifest import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
"""Formats that are read. MPO is what many phones write: a JPEG with a second JPEG behind it."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may cost. Sizes are judged from the header, before anything is decoded."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


@dataclass(slots=True)
class InputInfo:
    """How an image was read: its format, its size as displayed, its EXIF orientation and what was done to it."""

    format: str
    width: int
    height: int
    orientation: int
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Prepared:
    """An image as the network sees it: `pixels` is uint8 [height, width, channels], C-contiguous."""

    pixels: npt.NDArray[np.uint8]
    info: InputInfo


def preprocess(data: bytes, recipe: Preprocessing, limits: Limits | None = None) -> Prepared:
    """Decode, orient, convert, resize and crop one encoded image by the bundle's recipe.

    Returns uint8 [height, width, channels]. Raises a subclass of `ImageError` whose detail says what was
    wrong with the image; bytes that are no image can raise nothing else.
    """
    limits = limits or Limits()
    image, image_format = _open(data, limits)
    try:
        orientation = _orientation(image) if recipe.orientation == "exif" else 1
        info = InputInfo(image_format, *image.size, orientation)
        _note_frames(image, info)
        if recipe.jpeg_draft and image_format in ("JPEG", "MPO"):
            _draft(image, recipe, orientation)
        image.load()
        if orientation != 1 and image_format != "TIFF":  # Pillow turns TIFF files itself while loading
            image = image.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            info.width, info.height = info.height, info.width
        image = _convert(image, recipe, info)
        image = _resize_and_crop(image, recipe, info)
    except ImageError:
        raise
    except Exception as error:  # hostile bytes make Pillow's plugins raise nearly anything
        raise _explain(error, image_format) from None
    pixels = np.asarray(image)
    return Prepared(pixels[:, :, None] if recipe.color == "grey" else pixels, info)


def _open(data: bytes, limits: Limits) -> tuple[Image.Image, str]:
    if not data:
        raise ImageEmpty("The image is empty: 0 bytes were received.")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The image is {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageTooManyPixels(f"The image has more pixels than the {limits.max_pixels} that are accepted.") from None
    except UnidentifiedImageError:
        raise ImageUnsupportedFormat(
            "The bytes are not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its header is damaged."
        ) from None
    except Exception as error:
        raise _explain(error, "image") from None
    if image.width * image.height > limits.max_pixels:
        raise ImageTooManyPixels(
            f"The image is {image.width}x{image.height}, {image.width * image.height} pixels;"
            f" at most {limits.max_pixels} are accepted."
        )
    return image, str(image.format)


def _explain(error: Exception, image_format: str) -> ImageError:
    text = str(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return ImageTruncated(f"The {image_format} file ends before its image does.")
    return ImageError(f"The {image_format} data is damaged and cannot be decoded.")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return value if value in _TRANSPOSE else 1


def _note_frames(image: Image.Image, info: InputInfo) -> None:
    if info.format != "MPO" and getattr(image, "is_animated", False):
        info.notes.append("animated: the first frame was read")


def _draft(image: Image.Image, recipe: Preprocessing, orientation: int) -> None:
    """Ask libjpeg for the smallest DCT scale that still covers the size the resize makes."""
    if recipe.resize == "none":
        return
    height, width = _resized_size(image.size if orientation < 5 else image.size[::-1], recipe)
    image.draft("L" if recipe.color == "grey" else "RGB", (width, height) if orientation < 5 else (height, width))


def _convert(image: Image.Image, recipe: Preprocessing, info: InputInfo) -> Image.Image:
    target = "RGB" if recipe.color == "rgb" else "L"
    if image.mode == target and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT:
        info.notes.append("16-bit reduced to 8-bit")
        image = _eight_bit(image)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = _flatten(image, recipe.alpha_background, info)
    elif image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise ImageUnsupportedMode(f"{info.format} pixels of mode {image.mode} have no declared conversion.")
    if image.mode == "CMYK":
        info.notes.append("CMYK converted to RGB without a color profile")
    return image if image.mode == target else image.convert("RGB" if image.mode == "P" else target).convert(target)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255, rounding to nearest."""
    wide = np.asarray(image).astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise ImageUnsupportedMode("Pixels wider than 16 bits have no declared conversion.")
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _flatten(image: Image.Image, background: tuple[int, int, int], info: InputInfo) -> Image.Image:
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    info.notes.append("transparency flattened on rgb({}, {}, {})".format(*background))
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=alpha)
    return flat


def _resized_size(size: tuple[int, int], recipe: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) that the resize makes of a (width, height)."""
    assert recipe.resize_size is not None
    if recipe.resize == "stretch":
        return recipe.resize_size
    width, height = size
    short = recipe.resize_size[0]
    if width <= height:
        return max(short, int(short * height / width)), short
    return short, max(short, int(short * width / height))


def _resize_and_crop(image: Image.Image, recipe: Preprocessing, info: InputInfo) -> Image.Image:
    """Resize and centre-crop in one step: only the box that the crop keeps is ever resampled."""
    height, width = image.height, image.width
    if recipe.resize != "none":
        height, width = _resized_size(image.size, recipe)
    crop_h, crop_w = recipe.crop_size or (height, width)
    if crop_h > height or crop_w > width:
        raise ImageError(f"The image is {width}x{height}; this model takes {crop_w}x{crop_h} and does not resize.")
    top, left = round((height - crop_h) / 2), round((width - crop_w) / 2)
    if (height, width) == image.size[::-1]:
        return image if (crop_h, crop_w) == (height, width) else image.crop((left, top, left + crop_w, top + crop_h))
    if info.width < width or info.height < height:
        info.notes.append(f"upscaled from {info.width}x{info.height}")
    scale_x, scale_y = image.width / width, image.height / height
    box = (left * scale_x, top * scale_y, (left + crop_w) * scale_x, (top + crop_h) * scale_y)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    return image.resize((crop_w, crop_h), _FILTERS[recipe.interpolation], box=box)

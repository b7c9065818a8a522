"""From encoded bytes to an upright Pillow image, under limits: what an image may cost is known before it is paid."""

from __future__ import annotations

import io
import time
import warnings
from dataclasses import dataclass, field

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from bundle.errors import (
    ImageEmpty,
    ImageError,
    ImageTooComplex,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageTooSlow,
    ImageTruncated,
    ImageUnsupportedFormat,
)

# Pillow warns about damaged metadata, which says nothing about the pixels. A filter is set once, because
# `warnings.catch_warnings` is not safe in threads; the pixel limit below is enforced, not warned about.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
"""Formats that are read. MPO is what many phones write: a JPEG with a second JPEG behind it."""
_PLUGINS = FORMATS[:-1]  # the JPEG plugin opens MPO too

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNDO = {**_TRANSPOSE, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_ORIENTATION_TAG = 0x0112
_METADATA = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
"""Where Pillow looks for the orientation."""
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_READ_BLOCK = 65_536  # what Pillow feeds its decoders at a time
_SMALL_READS = 64  # of these, mostly a header's, one looks at the clock, which takes longer than the rest of it


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may cost. One frame is read, whatever the file holds."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    """Judged from the header, before anything is decoded."""
    max_scans: int = 100
    """Passes of a progressive JPEG; ordinary files have about ten, and each pass visits every pixel."""
    max_decode_seconds: float = 10.0
    """Of the decoding thread's processor time, so that a busy machine refuses no image. Looked at between blocks."""


@dataclass(slots=True)
class InputInfo:
    """How an image was read: its format, its size as displayed, its EXIF orientation and what was done to it."""

    format: str
    width: int
    height: int
    orientation: int
    notes: list[str] = field(default_factory=list)


class _Timed(io.BytesIO):
    """Bytes that may be read for a limited processor time, so that a slow decode ends at its next block."""

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self.seconds = seconds
        self.small = 0
        self.deadline = time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size < _READ_BLOCK:
            self.small += 1
            if self.small % _SMALL_READS:
                return super().read(size)
        if time.thread_time() > self.deadline:
            raise ImageTooSlow(f"The image took longer than the {self.seconds:g} s that are allowed to decode it.")
        return super().read(size)


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Read the header and refuse what is over a limit; no pixel is decoded yet. Raises `ImageError`."""
    if not data:
        raise ImageEmpty("The image is empty: 0 bytes were received.")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The image is {len(data)} bytes; at most {limits.max_bytes} are accepted.")
    # A file of one block cannot be stopped half-way, and need not be: the other limits bound it.
    source = io.BytesIO(data) if len(data) <= _READ_BLOCK else _Timed(data, limits.max_decode_seconds)
    try:
        image = Image.open(source, formats=_PLUGINS)
    except Exception as error:
        raise explain(error, data, limits) from None
    _check_cost(image, data, limits)
    return image


def upright(image: Image.Image, wanted: bool) -> tuple[Image.Image, int]:
    """Decode the pixels and turn them as the EXIF orientation asks; return the image and the orientation applied."""
    turned_by_pillow = image.format == "TIFF"  # while loading, whatever we want, and the tag is gone afterwards
    if turned_by_pillow:
        orientation = _orientation(image)
        image.load()
    else:
        image.load()
        orientation = _orientation(image)
    if wanted and not turned_by_pillow and orientation != 1:
        image = image.transpose(_TRANSPOSE[orientation])
    elif not wanted and turned_by_pillow and orientation != 1:
        image = image.transpose(_UNDO[orientation])
    return image, orientation if wanted else 1


def displayed_size(image: Image.Image, wanted: bool) -> tuple[int, int]:
    """Return the (width, height) that `upright` will make of a JPEG, known from its header."""
    return image.size[::-1] if wanted and _orientation(image) >= 5 else image.size


def explain(error: Exception, data: bytes, limits: Limits) -> ImageError:
    """Say what is wrong with the file; the text of Pillow's exception never leaves the process."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return ImageTooManyPixels(f"The image has more pixels than the {limits.max_pixels} that are accepted.")
    if _ends_early(data) or isinstance(error, EOFError) or "truncated" in str(error).lower():
        return ImageTruncated("The file ends before its image does.")
    if isinstance(error, UnidentifiedImageError):
        return ImageUnsupportedFormat(
            "The bytes are not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its header is damaged."
        )
    return ImageError("The image data is damaged and cannot be decoded.")


def _check_cost(image: Image.Image, data: bytes, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageTooManyPixels(
            f"The image is {width}x{height}, {width * height} pixels; at most {limits.max_pixels} are accepted."
        )
    if "progressive" in image.info and image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > limits.max_scans:
        raise ImageTooComplex(f"The JPEG has more than the {limits.max_scans} scans that are accepted.")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # libtiff decodes whole tiles, and a tile may be far larger than its image.
        sides = [image.tag_v2.get(tag, 0) for tag in (_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH)]
        if not all(isinstance(side, int) for side in sides):
            raise ImageError("The TIFF declares a tile size that is not a whole number.")
        if sides[0] * sides[1] > limits.max_pixels:
            raise ImageTooManyPixels(
                f"The TIFF has tiles of {sides[0]}x{sides[1]}; at most {limits.max_pixels} pixels are accepted."
            )


def _orientation(image: Image.Image) -> int:
    if image.format != "TIFF" and _METADATA.isdisjoint(image.info):  # building an empty Exif takes longer than looking
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except ImageError:
        raise
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return value if value in _TRANSPOSE else 1


def _ends_early(data: bytes) -> bool:
    """Tell whether the container itself says that bytes are missing."""
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in data[-65_536:]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data[-65_536:]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return not data.rstrip(b"\0").endswith(b";")
    return data[:2] == b"BM" and int.from_bytes(data[2:6], "little") > len(data)

"""From encoded bytes to the uint8 array that enters the sealed graph: the only preprocessing in the project.

Training's evaluation, `verify` and the service all call `preprocess`, so what one of them sees, all see.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle import modes
from bundle.decode import FORMATS, InputInfo, Limits, displayed_size, explain, open_image, upright
from bundle.errors import BundleError, ImageSizeMismatch
from bundle.manifest import Preprocessing

__all__ = ["FORMATS", "InputInfo", "Limits", "Prepared", "preprocess"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_local = threading.local()  # a resizer owns scratch memory: one for each thread

Box = tuple[float, float, float, float]


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
    image = open_image(data, limits)
    try:
        image, info = _decoded(image, recipe)
        image = modes.convert(image, recipe, info)
    except Exception as error:  # hostile bytes make Pillow's plugins raise nearly anything
        raise explain(error, data, limits) from None
    pixels = np.asarray(_resize_and_crop(image, recipe, info))
    return Prepared(pixels[:, :, None] if recipe.color == "grey" else pixels, info)


def _decoded(image: Image.Image, recipe: Preprocessing) -> tuple[Image.Image, InputInfo]:
    info = InputInfo(str(image.format), 0, 0, 1)
    exif = recipe.orientation == "exif"
    if info.format == "JPEG" or info.format == "MPO":
        info.width, info.height = displayed_size(image, exif)
        if recipe.jpeg_draft:
            _draft(image, recipe, info)
    elif modes.is_sixteen_bit(image) and image.mode not in modes.SIXTEEN_BIT:
        modes.note_sixteen_bit(info)
    if info.format != "MPO" and getattr(image, "is_animated", False):
        info.notes.append("animated: the first frame was read")
    image, info.orientation = upright(image, exif)
    if not info.width:
        info.width, info.height = image.size
    return image, info


def _draft(image: Image.Image, recipe: Preprocessing, info: InputInfo) -> None:
    """Ask libjpeg for the smallest DCT scale that still covers the size the resize makes."""
    if recipe.resize == "none":
        return
    height, width = _resized_size((info.width, info.height), recipe)
    size = (width, height) if image.size == (info.width, info.height) else (height, width)
    image.draft("L" if recipe.color == "grey" else "RGB", size)


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
        height, width = _resized_size((info.width, info.height), recipe)
    crop_h, crop_w = recipe.crop_size or (height, width)
    if crop_h > height or crop_w > width:
        raise ImageSizeMismatch(
            f"The image is {width}x{height}; this model takes at least {crop_w}x{crop_h} and does not resize."
        )
    top, left = round((height - crop_h) / 2), round((width - crop_w) / 2)
    if (height, width) == image.size[::-1]:
        return image if (crop_h, crop_w) == (height, width) else image.crop((left, top, left + crop_w, top + crop_h))
    if info.width < width or info.height < height:
        info.notes.append(f"upscaled from {info.width}x{info.height}")
    scale_x, scale_y = image.width / width, image.height / height
    box = (left * scale_x, top * scale_y, (left + crop_w) * scale_x, (top + crop_h) * scale_y)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    if recipe.interpolation == "fast_bilinear":
        return _resize_fast(image, (crop_w, crop_h), box)
    return image.resize((crop_w, crop_h), _FILTERS[recipe.interpolation], box=box)


def _resize_fast(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Resample with Pillow's antialiased bilinear filter, computed with SIMD: within two levels of Pillow's pixels.

    The same pixels come out with AVX2, SSE4.1, NEON and without any of them.
    """
    resizer, resampling = _fast_resizer()
    left, top, right, bottom = box
    target = Image.new(image.mode, size)
    resizer.resize_pil(image, target, resampling(left, top, right - left, bottom - top))
    return target


def _fast_resizer() -> tuple[Any, Any]:
    """Return this thread's resizer and the function that makes its options; imported when first needed."""
    if not hasattr(_local, "resizer"):
        try:
            import cykooz_resizer as fast
        except ImportError:
            raise BundleError("interpolation 'fast_bilinear' needs the package cykooz-resizer") from None
        bilinear = fast.ResizeAlg.convolution(fast.FilterType.bilinear)

        def options(*box: float) -> Any:
            return fast.ResizeOptions(resize_alg=bilinear, use_alpha=False, crop_box=fast.CropBox(*box))

        _local.resizer = (fast.Resizer(), options)
    return _local.resizer  # type: ignore[no-any-return]

"""Encoded images made on the spot: what the tests feed to preprocessing and to the service."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from bundle.manifest import Preprocessing

RECIPE = Preprocessing(
    resize="none",
    resize_size=None,
    crop_size=None,
    interpolation="bilinear",
    color="rgb",
    orientation="exif",
    alpha_background=(255, 255, 255),
    jpeg_draft=False,
)


def recipe(**changes: Any) -> Preprocessing:
    """Return a recipe that changes nothing but what is asked for."""
    return Preprocessing(**{**RECIPE.model_dump(), **changes})


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return the file's bytes."""
    sink = io.BytesIO()
    image.save(sink, image_format, **options)
    return sink.getvalue()


def solid(mode: str, color: Any, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """Return an image of one color."""
    return Image.new(mode, size, color)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth colorful picture that survives JPEG well."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def quadrants(size: int = 64) -> Image.Image:
    """Return red, green / blue, white quadrants: every EXIF orientation looks different."""
    image = Image.new("RGB", (size, size), "white")
    half = size // 2
    for color, place in (("red", (0, 0)), ("lime", (half, 0)), ("blue", (0, half))):
        image.paste(Image.new("RGB", (half, half), color), place)
    return image


def png(width: int, height: int, bit_depth: int, color_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Build a PNG by hand from its raw rows (each with its filter byte), for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    extra = b"".join(chunk(*c) for c in chunks)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def with_orientation(image: Image.Image, orientation: int, image_format: str, **options: Any) -> bytes:
    """Return the file with an EXIF orientation tag."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, image_format, exif=exif, **options)


def scans_bomb(scans: int, image: Image.Image | None = None, pad: int = 0) -> bytes:
    """Return a progressive JPEG whose last scan is repeated: small, and a pass over every pixel for each.

    Each repetition is preceded by a comment of `pad` bytes, which makes the file longer and not slower.
    """
    data = encode(image or photo(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", pad) + bytes(pad - 2) if pad else b""
    return data[:last] + (comment + data[last:-2]) * scans + data[-2:]


def tiff_of_frames(count: int) -> bytes:
    """Return an uncompressed TIFF of very many frames of one red pixel each, each directory behind the other."""
    tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 2), (277, 3), (278, 1), (279, 3))
    size = 2 + 12 * (len(tags) + 1) + 4 + 3
    frames = [struct.pack("<2sHI", b"II", 42, 8)]
    for index in range(count):
        at = 8 + index * size
        entries = sorted([*tags, (273, at + size - 3)])
        packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        following = at + size if index + 1 < count else 0
        frames.append(struct.pack("<H", len(entries)) + packed + struct.pack("<I", following) + b"\xfa\0\0")
    return b"".join(frames)


def tiled_tiff(size: int, tile: int) -> bytes:
    """Return a grey deflate TIFF of `size` pixels a side in one tile of `tile` pixels a side, all zero."""
    body = zlib.compress(bytes(min(tile * tile, 1 << 20)), 9)
    tags = [(256, size), (257, size), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile), (324, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (325, len(body))])
    directory = struct.pack("<H", len(tags) + 1) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory

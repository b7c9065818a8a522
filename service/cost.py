"""What decoding an image will cost, told from its first bytes: nothing is decoded and nothing can fail."""

from __future__ import annotations

_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that say how large a JPEG is."""
_QUICK_PIXELS = 2**20
_QUICK_BYTES = 2**18


def is_quick(data: bytes) -> bool:
    """Return whether an image is decoded in a few milliseconds: a JPEG or PNG that says it is small."""
    if len(data) > _QUICK_BYTES:
        return False
    pixels = _pixels_of_png(data) if data.startswith(_PNG) else _pixels_of_jpeg(data)
    return 0 < pixels <= _QUICK_PIXELS


def _pixels_of_png(data: bytes) -> int:
    return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")


def _pixels_of_jpeg(data: bytes) -> int:
    """Return the pixels of a JPEG in one scan, and 0 for other bytes."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            scans_once = data[at + 1] in (0xC0, 0xC1)
            size = int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
            return size if scans_once else 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0

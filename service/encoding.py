"""`Content-Encoding` and `Accept-Encoding`: gzip and deflate, bounded on the way in."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any

from service.errors import BodyTooLarge, MediaTypeUnsupported, RequestInvalid

_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_SMALLEST = 1024
"""Answers below this many bytes are not compressed."""


def inflate(environ: dict[str, Any], limit: int) -> None:
    """Replace a compressed body in the WSGI environment by what it holds, at most `limit` bytes of it.

    Raises `MediaTypeUnsupported`, `BodyTooLarge` or `RequestInvalid`.
    """
    encoding = environ.pop("HTTP_CONTENT_ENCODING").strip().lower()
    if encoding in ("", "identity"):
        return
    if encoding not in _WINDOW:
        raise MediaTypeUnsupported(f"Content-Encoding {encoding!r} is not read; send gzip, deflate or neither.")
    length = environ.get("CONTENT_LENGTH")
    packed = environ["wsgi.input"].read(int(length) if length else limit + 1)
    if len(packed) > limit:
        raise BodyTooLarge(f"The compressed body is over {limit} bytes, which is the most that is accepted.")
    plain = _decompress(packed, encoding, limit)
    environ["wsgi.input"] = io.BytesIO(plain)
    environ["CONTENT_LENGTH"] = str(len(plain))


def _decompress(packed: bytes, encoding: str, limit: int) -> bytes:
    decoder = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = decoder.decompress(packed, limit + 1)
    except zlib.error:
        raise RequestInvalid(f"The body is not valid {encoding}.") from None
    if len(plain) > limit:
        raise BodyTooLarge(f"The body is over {limit} bytes once decompressed, which is the most that is accepted.")
    if not decoder.eof or decoder.unused_data:
        raise RequestInvalid(f"The {encoding} body is incomplete, or bytes follow it.")
    return plain


def deflate(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """Compress an answer as the client accepts it; return the body and its `Content-Encoding`, or None."""
    if len(body) < _SMALLEST:
        return body, None
    offered = {part.partition(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part}
    if "gzip" in offered:
        return gzip.compress(body, 1), "gzip"
    if "deflate" in offered:
        return zlib.compress(body, 1), "deflate"
    return body, None

"""What a request says: its parameters, its deadline, and the encoded images in its body."""

from __future__ import annotations

import base64
import binascii
import itertools
import re
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError

from service.encoding import inflate
from service.errors import (
    BodyIncomplete,
    BodyTooLarge,
    MediaTypeUnsupported,
    RequestInvalid,
)
from service.port import PROBABILITIES
from service.schema import ImagesBody
from service.settings import Settings

DEFAULT_TOP_K = 5
WITH_EMBEDDING = ("probabilities", "embedding")
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")
_numbers = itertools.count(1)


def arguments_of(request: Request) -> Mapping[str, str]:
    """Return what the URL asks; most ask nothing, and reading that has its price too."""
    return request.args if request.environ.get("QUERY_STRING") else {}


def request_id_of(environ: dict[str, Any]) -> str:
    """Return the caller's `X-Request-Id` when it is harmless to repeat, else a new one."""
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    return given if given and _ID.match(given) else new_request_id()


def new_request_id() -> str:
    """Return an id that no other request of any process has: a random prefix per process, and a number."""
    return f"{_process_prefix()}{next(_numbers):012x}"


@lru_cache(maxsize=1)
def _process_prefix() -> str:
    return uuid.uuid4().hex[:20]


def deadline_of(request: Request, settings: Settings, now: float) -> float:
    """Return the monotonic second by which the caller wants its answer (`X-Request-Deadline-Ms` or the default)."""
    given = request.environ.get("HTTP_X_REQUEST_DEADLINE_MS")
    if given is None:
        return now + settings.deadline_ms / 1000
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = -1.0
    if not 0 < milliseconds <= 86_400_000:
        raise RequestInvalid(f"X-Request-Deadline-Ms must be a number of milliseconds above 0, not {given!r}.")
    return now + milliseconds / 1000


def integer_of(name: str, given: str | None, default: int | None, least: int) -> int | None:
    """Read a whole number of at least `least` from a parameter. Raises `RequestInvalid` naming it."""
    if given is None:
        return default
    if not given.isascii() or not given.isdecimal() or len(given) > 9 or int(given) < least:
        raise RequestInvalid(f"{name} must be a whole number of at least {least}, not {given!r}.")
    return int(given)


@dataclass(frozen=True, slots=True)
class Options:
    """What the URL asks to be in an answer."""

    top_k: int = DEFAULT_TOP_K
    threshold: float | None = None
    embedding: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the graph that this needs."""
        return WITH_EMBEDDING if self.embedding else PROBABILITIES


_RAW = ("application/octet-stream", "application/x-www-form-urlencoded")
"""Types of a body that is the image itself; the second is what curl and urllib say of any body."""
ALL_CLASSES = 1 << 30
_DEFAULTS = Options()


def options_of(arguments: Mapping[str, str]) -> Options:
    """Read `top_k` (a number or `all`), `threshold` and `embedding`. Raises `RequestInvalid` naming the bad one."""
    if not arguments:
        return _DEFAULTS
    given = arguments.get("top_k")
    top_k = ALL_CLASSES if given == "all" else integer_of("top_k", given, DEFAULT_TOP_K, 1) or DEFAULT_TOP_K
    return Options(top_k, share_of("threshold", arguments.get("threshold")), flag_of(arguments, "embedding"))


def share_of(name: str, given: str | None) -> float | None:
    """Read a number between 0 and 1. Raises `RequestInvalid` naming it."""
    if given is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise RequestInvalid(f"{name} must be a number between 0 and 1, not {given!r}.")
    return value


def flag_of(arguments: Mapping[str, str], name: str) -> bool:
    """Read `true` or `false` (also 1 and 0). Raises `RequestInvalid` naming it."""
    given = arguments.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise RequestInvalid(f"{name} must be true or false, not {given!r}.")
    return given in ("true", "1")


def check_length(request: Request, settings: Settings) -> None:
    """Refuse a body that says it is too large, before it is read, and unpack a compressed one.

    Raises `BodyTooLarge`, or what `inflate` does.
    """
    if "HTTP_CONTENT_ENCODING" in request.environ:
        inflate(request.environ, settings.max_body_bytes)
    length = _length_of(request.environ)
    if length is not None and length > settings.max_body_bytes:
        raise BodyTooLarge(f"The body is {length} bytes; at most {settings.max_body_bytes} are accepted.")


def _length_of(environ: dict[str, Any]) -> int | None:
    given = environ.get("CONTENT_LENGTH")
    return int(given) if given and given.isdecimal() and "HTTP_TRANSFER_ENCODING" not in environ else None


def read_body(request: Request, settings: Settings) -> bytes:
    """Read the whole body. Raises `BodyTooLarge`, or `BodyIncomplete` when the client stopped sending."""
    length = _length_of(request.environ)
    limit = settings.max_body_bytes
    if length is None and not request.environ.get("wsgi.input_terminated"):
        return b""
    try:
        body: bytes = request.environ["wsgi.input"].read(limit + 1 if length is None else length)
    except OSError:
        raise BodyIncomplete("The connection failed while the body was read.") from None
    if len(body) > limit:
        raise BodyTooLarge(f"The body is over {limit} bytes, which is the most that is accepted.")
    if length is not None and len(body) < length:
        raise BodyIncomplete(f"The body ended after {len(body)} of {length} bytes.")
    return body


def read_images(request: Request, settings: Settings, fields: tuple[str, ...] = ("image",)) -> tuple[list[bytes], bool]:
    """Return the encoded images of a request, and whether it asked for a list of results.

    The body is an image itself (`image/*`, no type, or one of `_RAW`), `multipart/form-data` with one or more parts
    named as the first of `fields` that is there, or JSON with base64: `{"image": "…"}` or a list.
    """
    check_length(request, settings)
    kind = (request.environ.get("CONTENT_TYPE") or "").partition(";")[0].strip().lower()
    if not kind or kind.startswith("image/") or kind in _RAW:
        return [read_body(request, settings)], False
    if kind == "multipart/form-data":
        images, many = _from_multipart(request, settings, fields)
    elif kind == "application/json":
        images, many = _from_json(read_body(request, settings))
    else:
        raise MediaTypeUnsupported(
            f"Content-Type {kind!r} is not read here; send an image (image/jpeg, image/png, … or"
            " application/octet-stream), multipart/form-data with a part named 'image', or application/json."
        )
    if len(images) > settings.max_images:
        raise BodyTooLarge(f"The request holds {len(images)} images; at most {settings.max_images} are accepted.")
    return images, many


def _from_multipart(request: Request, settings: Settings, fields: tuple[str, ...]) -> tuple[list[bytes], bool]:
    request.max_content_length = settings.max_body_bytes
    request.max_form_memory_size = settings.max_body_bytes
    request.max_form_parts = settings.max_images + 16
    parts = next((found for name in fields if (found := request.files.getlist(name))), [])
    if not parts:
        names = sorted({*request.files, *request.form})
        there = f"the parts are {', '.join(map(repr, names[:8]))}" if names else "there are no parts"
        raise RequestInvalid(f"multipart/form-data needs a file part named {fields[0]!r}; {there}.")
    return [part.stream.read() for part in parts], len(parts) > 1


def _from_json(body: bytes) -> tuple[list[bytes], bool]:
    value = validated(ImagesBody, body).image
    if isinstance(value, str):
        return [decode64(value, "image")], False
    return [decode64(item, f"image[{index}]") for index, item in enumerate(value)], True


D = TypeVar("D", bound=BaseModel)


def validated(document: type[D], body: bytes) -> D:
    """Read a JSON body as a document. Raises `RequestInvalid` naming the first member that is wrong."""
    try:
        return document.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        raise RequestInvalid(f"{where}: {first['msg']}.") from None


def decode64(value: Any, where: str) -> bytes:
    """Decode base64 or a data: URL. Raises `RequestInvalid` naming `where`."""
    if not isinstance(value, str):
        raise RequestInvalid(f"{where} must be a base64 string, not {type(value).__name__}.")
    head, comma, rest = value.partition(",")
    text = rest if comma and head.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestInvalid(f"{where} is not valid base64.") from None


def client_of(environ: dict[str, Any]) -> socket.socket | None:
    """Return the client's connection, where the server shows it."""
    sock = environ.get("gunicorn.socket")
    return sock if isinstance(sock, socket.socket) else None

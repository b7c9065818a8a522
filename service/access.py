"""API keys: stored hashed, compared in constant time, read again when their file changes.

A key is 256 random bits, so one SHA-256 is enough: there is nothing to guess and nothing to stretch.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from service.errors import ServiceError

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.access"))

PREDICT, ADMIN = "predict", "admin"
SCOPES = (PREDICT, ADMIN)
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}) (?P<scopes>[a-z,]+) (?P<digest>[0-9a-f]{64})\Z")
_LOOK_S = 1.0


class KeyMissing(ServiceError):
    """No API key came with the request."""

    status = 401
    code = "auth.missing"


class KeyUnknown(ServiceError):
    """The API key is not one of ours (any more)."""

    status = 401
    code = "auth.unknown_key"


class ScopeMissing(ServiceError):
    """The API key does not allow this."""

    status = 403
    code = "auth.scope"


class AdminClosed(ServiceError):
    """An admin endpoint, and no key is configured that could open it."""

    status = 403
    code = "auth.admin_closed"


@dataclass(frozen=True, slots=True)
class Key:
    """Who may do what. `digest` is the SHA-256 of the key; the key itself is nowhere."""

    name: str
    scopes: frozenset[str]
    digest: str


def new_key(name: str, scopes: tuple[str, ...]) -> tuple[str, str]:
    """Make a key; return the secret, shown once, and the line to store."""
    secret = f"cs_{secrets.token_urlsafe(32)}"
    line = f"{name} {','.join(scopes)} {digest_of(secret)}"
    parse_keys(line)
    return secret, line


def digest_of(secret: str) -> str:
    """Return the hash that is stored for a key."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def parse_keys(text: str) -> tuple[Key, ...]:
    """Read `name scope[,scope] sha256` lines; `#` begins a comment. Raises `ValueError` naming the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()  # noqa: PLW2901
        if not line:
            continue
        found = _LINE.match(line)
        scopes = frozenset(found["scopes"].split(",")) if found else frozenset()
        if not found or not scopes <= set(SCOPES):
            raise ValueError(f"line {number} is not `name scope[,scope] sha256` with scopes of {', '.join(SCOPES)}")
        keys.append(Key(found["name"], scopes, found["digest"]))
    return tuple(keys)


class KeyStore:
    """The keys of one file. A file that changes is read again within a second; a broken one changes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp = self._stamp_now()
        self._keys = parse_keys(path.read_text())
        self._looked = time.monotonic()

    def find(self, secret: str) -> Key | None:
        """Return the key of a secret. Every stored hash is compared in full, so time tells nothing."""
        self._refresh()
        digest = digest_of(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < _LOOK_S:
            return
        with self._lock:
            self._looked = time.monotonic()
            try:
                stamp = self._stamp_now()
                if stamp != self._stamp:
                    self._keys = parse_keys(self.path.read_text())
                    self._stamp = stamp
                    log.info("keys.read", keys=len(self._keys))
            except (OSError, ValueError) as error:
                log.error("keys.unreadable", reason=str(error))

    def _stamp_now(self) -> tuple[int, int, int]:
        status = self.path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino


def secret_of(environ: dict[str, Any]) -> str:
    """Return the key that a request carries: `Authorization: Bearer KEY` or `X-API-Key: KEY`; empty without one."""
    given: str = environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return str(environ.get("HTTP_X_API_KEY", "")).strip()


def authorize(keys: KeyStore, environ: dict[str, Any], scope: str) -> Key:
    """Return the caller's key. Raises `KeyMissing`, `KeyUnknown` or `ScopeMissing`."""
    secret = secret_of(environ)
    if not secret:
        raise KeyMissing("Send an API key: `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
    key = keys.find(secret)
    if key is None:
        raise KeyUnknown("The API key is not known here.")
    if scope not in key.scopes:
        raise ScopeMissing(f"The API key {key.name!r} does not have the scope {scope!r} that this needs.")
    return key

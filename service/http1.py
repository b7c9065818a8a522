"""gunicorn's HTTP/1 with what repeats per request done once: settings, trusted peers, and one write per answer."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser


class Snapshot:
    """gunicorn's configuration as plain attributes; looking a setting up in the original costs a dictionary each."""

    def __init__(self, configuration: Any) -> None:
        self.__dict__.update({name: setting.get() for name, setting in configuration.settings.items()})
        self._configuration = configuration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)


class PeerRequest(Request):  # type: ignore[misc]
    """gunicorn's request; whether a peer may speak for others is decided once per address."""

    def _peer_is_trusted_proxy(self) -> bool:
        if not isinstance(self.peer_addr, tuple):
            return True
        return _trusted(self.peer_addr[0], tuple(self.cfg.forwarded_allow_ips))


class PeerParser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser making such requests."""

    mesg_class = PeerRequest


@lru_cache(maxsize=1024)
def _trusted(address: str, allowed: tuple[str, ...]) -> bool:
    if "*" in allowed:
        return True
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(peer in ipaddress.ip_network(entry, strict=False) for entry in allowed)


class Reply:
    """One answer: WSGI's `start_response`, and everything sent at once with its length."""

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take status and headers. Raises `ValueError` for a value that would end its line."""
        del exc_info
        for name, value in headers:
            if "\n" in value or "\r" in value or "\n" in name:
                raise ValueError(f"header {name!r} holds a line break")
        self.status, self.headers = status, headers

    def encode(self, parts: Iterable[bytes], request: Any, close: bool) -> bytes:
        """Return the bytes of head and body; without a length in the headers, the body's own is added."""
        body = b"".join(parts)
        bare = request.method == "HEAD" or self.status.startswith(("204", "304", "1"))
        lines = [f"HTTP/1.1 {self.status}\r\nServer: clearsight\r\nDate: {_date()}\r\n"]
        lines.append("Connection: close\r\n" if close else "Connection: keep-alive\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        if not bare and not any(name.lower() == "content-length" for name, _ in self.headers):
            lines.append(f"Content-Length: {len(body)}\r\n")
        lines.append("\r\n")
        head = "".join(lines).encode("latin-1")
        return head if bare else head + body


def _date() -> str:
    return _date_at(int(time.time()))


@lru_cache(maxsize=2)
def _date_at(second: int) -> str:
    return formatdate(second, usegmt=True)

"""One client's connection, and how much of its next request has arrived."""

from __future__ import annotations

import json
import re
import socket
from http import HTTPStatus
from typing import Any

from service.errors import ServiceError
from service.loop import current
from service.problems import problem_fields

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_LARGEST_HEAD = 64 * 2**10
_CHUNKED_END = b"0\r\n\r\n"
SEND_S = 20.0
"""How long a client may take to read its answer."""


class Connection:
    """A socket and the bytes that were read from it and not yet parsed. gunicorn's parser has the last word on them."""

    __slots__ = (
        "busy", "client", "complete", "deadline", "expects", "head", "length", "need", "parser", "received", "refused",
        "registered", "server", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:
        self.sock = sock
        self.client = client
        self.server = server
        self.parser: Any = None
        self.deadline = 0.0
        """Monotonic second at which the connection is given up."""
        self.registered = False
        self.forget()

    def forget(self) -> None:
        """Start with the next request."""
        self.busy = False
        """Whether the request is being answered beside others; its bytes are not read from then on."""
        self.received = bytearray()
        self.head = 0
        self.length = 0
        self.need = 0
        """Bytes of the whole request, once its head is there; 0 before."""
        self.expects = False
        self.complete = False
        """Whether head and body were read before the request was handed on, so that nothing is left to drain."""
        self.refused = False
        """Set when the request is to be refused without reading its body."""

    def feed(self, data: bytes | memoryview) -> bool:
        """Add what was read; return whether the request is complete, or broken enough for the parser to say so."""
        self.received += data
        if not self.need and not self._read_head():
            return len(self.received) > _LARGEST_HEAD
        if self.need < 0:
            return self.received.endswith(_CHUNKED_END)
        self.complete = len(self.received) >= self.need
        return self.complete

    def _read_head(self) -> bool:
        """Find the end of the head and the length of the body; a body in chunks has the need -1."""
        end = self.received.find(b"\r\n\r\n", max(0, self.head - 3))
        if end < 0:
            self.head = len(self.received)
            return False
        self.head = end + 4
        head = bytes(self.received[: self.head])
        self.expects = _EXPECTS.search(head) is not None
        if _CHUNKED.search(head):
            self.need = -1
            return True
        found = _LENGTH.search(head)
        self.length = int(found.group(1)) if found else 0
        self.need = self.head + self.length
        return True

    def send(self, data: bytes) -> None:
        """Send an answer; beside other requests, what a slow client does not take at once is left to a thread."""
        loop = current()
        if loop is None:
            self.sock.sendall(data)
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            loop.offload(self._send_patiently, data[sent:])

    def _send_patiently(self, data: bytes) -> None:
        self.sock.settimeout(SEND_S)
        try:
            self.sock.sendall(data)
        finally:
            self.sock.setblocking(False)

    @property
    def idle(self) -> bool:
        """Whether nothing of a next request has arrived."""
        return not self.received


def refusal(error: ServiceError) -> bytes:
    """Return the bytes of an answer that ends a connection before the application has seen its request."""
    body = json.dumps(problem_fields(error)).encode()
    head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

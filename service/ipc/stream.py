"""One end of a stream socket that carries rows and answers: whole messages out, whole messages in."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from service.ipc.wire import HEAD

_CHUNK = 2**18
_LARGEST = 2**34
_TIME = struct.Struct("@ll")  # struct timeval


class Message:
    """One received message."""

    __slots__ = ("kind", "number", "payload")

    def __init__(self, kind: bytes, number: int, payload: memoryview) -> None:
        self.kind = kind
        self.number = number
        self.payload = payload


class Stream:
    """A connected socket. One thread receives; sending is for one thread at a time."""

    def __init__(self, sock: socket.socket, send_s: float) -> None:
        self.sock = sock
        self._held = bytearray()
        self._taken = 0
        """Bytes at the beginning of what is held that belong to messages which were taken already."""
        self._scratch = memoryview(bytearray(_CHUNK))
        """Read into again and again: memory that comes and goes has to be cleared each time."""
        # The kernel's own time limits: a Python timeout costs a poll for every call.
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_s))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)

    @classmethod
    def connect(cls, path: Path, send_s: float, receive_s: float) -> Stream:
        """Connect to a listening path. Raises `OSError` when nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(receive_s))
            return cls(sock, send_s)
        except OSError:
            sock.close()
            raise

    @property
    def holds_more(self) -> bool:
        """Whether bytes of a further message were received."""
        return bool(self._held)

    @property
    def closed(self) -> bool:
        """Whether this end has hung up."""
        return self.sock.fileno() < 0

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def __del__(self) -> None:
        self.close()  # a thread that ends takes its connection with it

    def send(self, *parts: Any) -> None:
        """Send the parts of one message. Raises `OSError` when the other end is gone or does not read in time."""
        total = sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        sent = self.sock.sendmsg(parts)
        if sent < total:
            self.sock.sendall(b"".join(parts)[sent:])

    def receive(self, flags: int = 0) -> Message | None:
        """Return the next message, or None when nothing came within the time that `connect` was given.

        With `MSG_DONTWAIT` it returns None as soon as nothing more is there. Raises `OSError` when the other end has
        hung up, and `ValueError` when it does not speak this protocol.
        """
        while (message := self._take()) is None:
            try:
                size = self.sock.recv_into(self._scratch, 0, flags)
            except BlockingIOError:
                return None
            if not size:
                raise ConnectionResetError("the other end has hung up")
            chunk = self._scratch[:size]
            if not self._held and (message := _whole(chunk)) is not None:
                return message
            del self._held[: self._taken]
            self._taken = 0
            self._held += chunk
        return message

    def _take(self) -> Message | None:
        """Take the next message of what was received, once it is whole."""
        start = self._taken + HEAD.size
        if len(self._held) < start:
            return None
        kind, number, length = HEAD.unpack_from(self._held, self._taken)
        if length > _LARGEST:
            raise ValueError(f"a message of {length} bytes was announced")
        end = start + length
        if len(self._held) < end:
            return None
        with memoryview(self._held) as held:
            payload = bytes(held[start:end])
        self._taken = end
        if end == len(self._held):
            self._held, self._taken = bytearray(), 0
        return Message(kind, number, memoryview(payload))


def _whole(chunk: memoryview) -> Message | None:
    """Return the message that is exactly these bytes: the usual case."""
    if len(chunk) < HEAD.size:
        return None
    kind, number, length = HEAD.unpack_from(chunk)
    return Message(kind, number, memoryview(bytes(chunk[HEAD.size :]))) if len(chunk) == HEAD.size + length else None


def _timeval(seconds: float) -> bytes:
    return _TIME.pack(int(seconds), int(seconds % 1 * 1e6))

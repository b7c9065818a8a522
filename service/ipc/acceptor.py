"""The engine's end of the stream sockets: one thread reads every request, answers leave from any thread."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from service.ipc.stream import Message, Stream

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))

_SEND_S = 2.0
"""Who asks waits for the answer, so only one of a stopped process takes longer to read it."""


class Peer:
    """The other end of one connection: a worker's loop, or one of its threads. Any thread may send to it."""

    __slots__ = ("_held", "_lock", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._held: deque[bytes] = deque()
        self._lock = threading.Lock()

    def send(self, message: bytes) -> None:
        """Send one message now."""
        self.hold(message)
        self.flush()

    def hold(self, message: bytes) -> None:
        """Keep a message until `flush`: what belongs together then leaves in one piece."""
        self._held.append(message)

    def flush(self) -> None:
        """Send what is held; to a peer that is gone or stuck, the connection is ended instead."""
        with self._lock:
            messages = [self._held.popleft() for _ in range(len(self._held))]
            if not messages:
                return
            try:
                self.stream.send(b"".join(messages))
            except OSError:
                with contextlib.suppress(OSError):
                    self.stream.sock.shutdown(socket.SHUT_RDWR)


class Acceptor:
    """Listens on a path of the instance's folder and hands every message on."""

    def __init__(self, path: Path, take: Callable[[Peer, Message], None], leave: Callable[[Peer], None]) -> None:
        self._take = take
        self._leave = leave
        path.unlink(missing_ok=True)  # an engine that was killed left it behind
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="rows", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody."""
        self._wake_write.send(b"\0")
        self._thread.join(timeout=5.0)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake_write.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._wake_read:
                    return
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            self._selector.register(sock, selectors.EVENT_READ, Peer(Stream(sock, _SEND_S)))

    def _read(self, peer: Peer) -> None:
        """Take what a peer has sent; one that left or talks nonsense is hung up on."""
        try:
            message = peer.stream.receive(socket.MSG_DONTWAIT)
            while message is not None:
                self._take(peer, message)
                message = peer.stream.receive(socket.MSG_DONTWAIT) if peer.stream.holds_more else None
        except (OSError, ValueError, struct.error) as error:
            if not isinstance(error, OSError):
                log.warning("message.bad", reason=str(error))
            self._selector.unregister(peer.stream.sock)
            peer.stream.close()
            self._leave(peer)

"""One stream to the engine for all requests of a loop."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from typing import Any

from greenlet import getcurrent

from service.ipc.stream import Message, Stream
from service.loop import Loop

_TOGETHER = 4
"""Requests that wait for each other at most: more would keep the engine waiting for what could run already."""


class SharedStream:
    """Sends for everybody and hands each reply to the request that waits for its number; never blocks the loop."""

    def __init__(self, loop: Loop, stream: Stream, send_s: float) -> None:
        self._loop = loop
        self._stream = stream
        self._send_s = send_s
        self._waiting: dict[int, Any] = {}
        self._outbox = bytearray()
        self._held: list[Any] = []
        self._held_messages = 0
        self._stuck_since = 0.0
        self.lost = False
        loop.poller.register(stream.sock, selectors.EVENT_READ, self._ready)
        loop.looks.append(self._look)

    def close(self) -> None:
        """Hang up; whoever waits gets an `OSError`, not before the caller has stepped aside."""
        if not self.lost:
            self.lost = True
            self._loop.poller.unregister(self._stream.sock)
            self._loop.looks.remove(self._look)
            self._stream.close()
            self._loop.defer(self._fail_all)

    def send(self, *parts: Any) -> None:
        """Send the parts of one message; what the engine does not take at once follows. Raises `OSError`.

        While the engine has other requests of this loop at hand, those that come in one turn leave together: it wakes
        up less often.
        """
        if self.lost:
            raise ConnectionResetError("the other end has hung up")
        if self._outbox:
            self._outbox += b"".join(parts)
            return
        self._held += parts
        self._held_messages += 1
        if not self._waiting or self._held_messages >= _TOGETHER:
            self._send_held()
        elif self._held_messages == 1:
            self._loop.at_end_of_turn(self._send_held)

    def _send_held(self) -> None:
        parts, self._held, self._held_messages = self._held, [], 0
        if not parts or self.lost:
            return
        try:
            sent = self._stream.sock.sendmsg(parts, [], socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()  # tells everybody who waits, the sender too once it does
            return
        whole = b"".join(parts) if sent < sum(memoryview(part).nbytes for part in parts) else b""
        if whole:
            self._outbox += whole[sent:]
            self._stuck_since = time.monotonic()
            self._listen(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def receive(self, number: int) -> Message | None:
        """Step aside until the reply of this number comes, or for about `LOOK_S`: then None. Raises `OSError`."""
        if self.lost:
            raise ConnectionResetError("the other end has hung up")
        self._waiting[number] = getcurrent()
        try:
            message: Message | None = self._loop.step_aside()
            return message
        finally:
            self._waiting.pop(number, None)

    def _ready(self, sock: socket.socket) -> None:
        """Take what the engine has sent, and send what it has room for."""
        try:
            if self._outbox:
                self._flush(sock)
            message = self._stream.receive(socket.MSG_DONTWAIT)
            while message is not None:
                waiter = self._waiting.pop(message.number, None)
                if waiter is not None:  # nobody waits for the reply to a request that was given up
                    waiter.switch(message)
                message = self._stream.receive(socket.MSG_DONTWAIT) if self._stream.holds_more else None
        except (OSError, ValueError):
            self.close()

    def _flush(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = sock.send(self._outbox, socket.MSG_DONTWAIT)
            del self._outbox[:sent]
            self._stuck_since = time.monotonic()
        if not self._outbox:
            self._listen(selectors.EVENT_READ)

    def _listen(self, events: int) -> None:
        self._loop.poller.modify(self._stream.sock, events, self._ready)

    def _look(self) -> None:
        if self._outbox and time.monotonic() - self._stuck_since > self._send_s:
            self.close()
            return
        for waiter in list(self._waiting.values()):
            waiter.switch(None)

    def _fail_all(self) -> None:
        for waiter in list(self._waiting.values()):
            waiter.throw(ConnectionResetError("the other end has hung up"))

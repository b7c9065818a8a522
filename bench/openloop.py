"""Open-loop load: requests leave at a constant rate whatever the server does, as users do.

Latency counts from the moment a request was meant to leave, so a server that falls behind cannot hide it
("coordinated omission", Gil Tene). One thread and raw sockets: the load must not take the server's cores.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.inputs import Input

DRAIN_S = 15.0
MAX_CONNECTIONS = 512


@dataclass
class Outcome:
    """What an open-loop run saw. Latencies are seconds from the intended departure, of answers with status 200."""

    offered_per_second: float
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    latencies: list[float] = field(default_factory=list)
    last_s: float = 0.0
    """When the last answer came, from the start."""

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latency in milliseconds."""
        ordered = sorted(self.latencies)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    @property
    def answered_per_second(self) -> float:
        """Successful answers a second, until the last of them: what had queued up by the end took its time, too."""
        return self.statuses[200] / max(self.seconds, self.last_s)


class Connection:
    """One keep-alive connection: idle, or waiting for the answer to the request due at `due`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.received = b""
        self.closing = False

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self.due, self.received = due, b""
        self.socket.sendall(request)

    def answer(self) -> int | None:
        """Read what is there; return the status once the answer is whole, -1 when the server hung up."""
        try:
            chunk = self.socket.recv(65536)
        except OSError:
            return -1
        if not chunk:
            return -1
        self.received += chunk
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        self.closing = b"\r\nconnection: close" in head.lower()
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head[9:12]) if len(body) >= length else None


class Generator:
    """Offers one image to one URL at a constant rate."""

    def __init__(self, url: str, image: Input) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.request = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {image.content_type}\r\n"
            f"Content-Length: {len(image.body)}\r\n\r\n"
        ).encode() + image.body
        self.selector = selectors.DefaultSelector()
        self.idle: deque[Connection] = deque()
        self.open = 0

    def run(self, per_second: float, seconds: float) -> Outcome:
        """Offer the load for `seconds`, then wait a bounded time for the last answers."""
        outcome = Outcome(per_second, seconds)
        total, sent, waiting = int(per_second * seconds), 0, deque[float]()
        start = time.perf_counter()
        while sum(outcome.statuses.values()) + outcome.unanswered < total:
            now = time.perf_counter() - start
            while sent < total and sent / per_second <= now:
                waiting.append(start + sent / per_second)
                sent += 1
            while waiting and (connection := self._take()):
                connection.ask(self.request, waiting.popleft())
            pause = sent / per_second - now if sent < total else 0.1
            self._collect(outcome, start, max(0.0, pause))
            if now > seconds + DRAIN_S:
                outcome.unanswered = total - sum(outcome.statuses.values())
        self._close()
        return outcome

    def _take(self) -> Connection | None:
        if self.idle:
            return self.idle.popleft()
        if self.open >= MAX_CONNECTIONS:
            return None
        self.open += 1
        connection = Connection(self.address)
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _collect(self, outcome: Outcome, start: float, pause: float) -> None:
        for key, _ in self.selector.select(pause):
            connection: Connection = key.data
            status = connection.answer()
            if status is None:
                continue
            if status == 200:
                now = time.perf_counter()
                outcome.latencies.append(now - connection.due)
                outcome.last_s = now - start
            if status > 0:
                outcome.statuses[status] += 1
            elif connection not in self.idle:  # closed while a request was under way
                outcome.unanswered += 1
            if status < 0 or connection.closing:
                self._drop(connection)
            else:
                self.idle.append(connection)

    def _drop(self, connection: Connection) -> None:
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)

    def _close(self) -> None:
        for key in list(self.selector.get_map().values()):
            key.data.socket.close()
        self.selector.close()

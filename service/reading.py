"""The reading half of the gunicorn worker: whole requests, head and body, by one loop for all connections.

gthread gives a thread to every client that has sent its first byte, so a few slow ones take all threads. Here a request
takes nothing but its bytes until it is complete, or is to be refused.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import ThreadWorker

from service.connection import Connection, refusal
from service.context import Collaborators
from service.crowd import CROWD
from service.errors import RequestTimeout, ServiceError
from service.problems import UNMATCHED

_STOPPING_S = 0.5
"""A stopping worker keeps idle connections this long, for a request that is on its way."""
_AT_ONCE = 2**18
"""Bytes that are read in one go: into the same memory for all, as memory that comes and goes has to be cleared."""
_ACCEPT_EVERY_S = 0.004
"""After a turn of the main loop, so much of it is worth one connection more."""
_GIVE_WAY_S, GIVES_WAY_TURN_S = 0.01, 0.001
"""A worker with more connections than another leaves a new one to it for so long, and takes it then; meanwhile it looks
so often whether the other one has caught up."""
_MURDER_S = 0.1
"""How often deadlines are looked at: with 900 idle connections, doing so in every turn cost a tenth of the requests."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Reader(ThreadWorker):  # type: ignore[misc]
    """Accepts connections, reads their requests, and hands each on."""

    hand_on: Callable[[Connection], None]
    """Takes a request that was read, or is to be refused."""

    def init_process(self) -> None:
        """Prepare what gthread's own start needs."""
        self.missed_s = 0.0
        """How long the main loop did not look what is there, because it was at work."""
        self._waiting: set[Connection] = set()
        self._buffered = 0
        self.gives_way_until = 0.0
        """Until when this worker leaves new connections to others; 0 once it has."""
        self._murder_at = 0.0
        self._scratch = memoryview(bytearray(_AT_ONCE))
        self._shared: Collaborators | None = None
        self._tls: ssl.SSLContext | None = ssl_context(self.cfg) if self.cfg.is_ssl else None
        super().init_process()

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a stopping worker first takes those that came before it was told to stop."""
        if not self.alive:
            for listener in self.sockets:
                for _ in range(self.cfg.backlog):
                    if not self._accept_one(listener):
                        break
        elif enabled and time.monotonic() < self.gives_way_until and self._has_more():
            return
        super().set_accept_enabled(enabled)
        self._count()

    def _count(self) -> None:
        """Let the other workers know how many connections this one has; one that stops accepts no more."""
        if self.alive:
            CROWD.hold(self.age, self.nr_conns)
        else:
            CROWD.leave(self.age)

    def accept(self, listener: Any) -> None:
        """Take a connection, and more after a long turn.

        One in each turn would keep new clients waiting for as long as others keep the turns long; all that are there
        would leave none for the other workers.
        """
        if self._gives_way():
            return
        for _ in range(1 + int(self.missed_s / _ACCEPT_EVERY_S)):
            if self.nr_conns >= self.worker_connections or not self._accept_one(listener):
                return

    def _gives_way(self) -> bool:
        """Stop accepting for a moment where another worker has fewer connections."""
        if self.gives_way_until or not self._has_more():
            self.gives_way_until = 0.0
            return False
        self.gives_way_until = time.monotonic() + _GIVE_WAY_S
        self.set_accept_enabled(False)
        return True

    def _has_more(self) -> bool:
        least = CROWD.least(besides=self.age)
        return least is not None and self.nr_conns > least

    def _accept_one(self, listener: Any) -> bool:
        """Take a connection and whatever it has sent already; return False when there is none."""
        try:
            sock, client = listener.accept()
        except OSError:
            return False  # another worker was quicker, or the client left
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            try:  # the handshake comes with the first read, so a client that does not finish it holds no thread
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except OSError:
                sock.close()
                return True
        self.nr_conns += 1
        self._count()
        self._await_request(Connection(sock, client, listener.getsockname()), self._shared_settings().read_timeout_s)
        return True

    def _shared_settings(self) -> Any:
        assert self._shared is not None
        return self._shared.settings

    def _await_request(self, conn: Connection, within_s: float) -> None:
        """Let the main loop read the next request of a connection."""
        conn.sock.setblocking(False)
        self._waiting.add(conn)
        self._allow(conn, within_s)
        self._read(conn, conn.sock)

    def _allow(self, conn: Connection, within_s: float) -> None:
        conn.deadline = time.monotonic() + (within_s if self.alive else min(within_s, _STOPPING_S))

    def _read(self, conn: Connection, sock: Any) -> None:
        if conn.busy:  # the client sends its next request before it has its answer: that is read later
            self._unregister(conn)
            return
        try:
            size = sock.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self._register(conn)
            return
        except OSError:
            size = 0
        if not size:
            self._discard(conn)
            return
        self._add(conn, self._scratch[:size])

    def _add(self, conn: Connection, data: bytes | memoryview) -> None:
        """Add what was read, and hand the request on once it is complete or to be refused."""
        if conn.idle:
            conn.deadline = time.monotonic() + self._shared_settings().read_timeout_s
        self._buffered += len(data)
        if conn.feed(data) or self._refuses(conn):
            self.hand_on(conn)
            return
        if conn.expects:
            conn.expects = False
            with contextlib.suppress(OSError):
                conn.sock.send(_CONTINUE)
        self._register(conn)

    def _refuses(self, conn: Connection) -> bool:
        """Decide, once the head is there, that the body will not be read: too large, or no place for it."""
        if not conn.need:
            return False
        assert self._shared is not None
        settings = self._shared.settings
        if conn.length > settings.max_body_bytes:
            return True
        conn.refused = not self._shared.tickets.free or self._buffered + conn.length > settings.buffer_bytes
        return conn.refused

    def _register(self, conn: Connection) -> None:
        if not conn.registered:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._read, conn))
            conn.registered = True

    def _unregister(self, conn: Connection) -> None:
        if conn.registered:
            self.poller.unregister(conn.sock)
            conn.registered = False

    def _discard(self, conn: Connection) -> None:
        self._unregister(conn)
        self._waiting.discard(conn)
        self._buffered -= len(conn.received)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        self._count()
        util.close(conn.sock)

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections soon: called once, when the worker stops."""
        del deadline
        soon = time.monotonic() + _STOPPING_S
        for conn in self._waiting:
            conn.deadline = min(conn.deadline, soon) if conn.idle else conn.deadline

    def murder_keepalived(self, force: bool = False) -> None:
        """Give up connections whose time is over; one that has begun a request is told so."""
        now = time.monotonic()
        if now < self._murder_at and not force:
            return
        self._murder_at = now + _MURDER_S
        for conn in [c for c in self._waiting if force or c.deadline <= now]:
            if not conn.idle and not conn.busy:
                self._refuse(conn.sock, RequestTimeout("The request did not arrive in time."))
            self._discard(conn)

    def _refuse(self, sock: Any, error: ServiceError) -> None:
        """Count and send an answer that the application does not make."""
        assert self._shared is not None
        self._shared.engine.observe(UNMATCHED, error.status, {})
        with contextlib.suppress(OSError):
            sock.send(refusal(error))

    def murder_pending(self) -> None:
        """Nothing more is pending than what `murder_keepalived` looks after."""

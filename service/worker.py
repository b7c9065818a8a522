"""The gunicorn worker: gthread, with whole requests handed to its threads.

gthread gives a thread to every client that has sent its first byte, so a few slow ones take all threads. Here the main
loop reads requests, head and body, and runs those for inference itself, beside one another: each steps aside while its
batch runs. The others, and with TLS all of them, are given to a thread when they are complete or to be refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from gunicorn import util
from gunicorn.http.errors import (
    ExpectationFailed,
    ForbiddenProxyRequest,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import ThreadWorker

from service.connection import SEND_S, Connection, refusal
from service.context import Collaborators
from service.environ import environ_of
from service.errors import RequestMalformed, RequestTimeout, ServiceError
from service.http1 import PeerParser, Reply, Snapshot
from service.loop import LOOK_S, Loop
from service.problems import UNMATCHED

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.worker"))

_LINGER_S = 0.004
_STOPPING_S = 0.5
"""A stopping worker keeps idle connections this long, for a request that is on its way."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_INFERENCE = re.compile(rb"POST /(predict[ ?]|predictions/|v1/models/|v2/models/)")
_NOTIFY_S = 0.5
_STATUSES = {
    ForbiddenProxyRequest: 403,
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
"""Where HTTP has a more precise status than 400."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """Reads requests in the main loop, answers them in threads."""

    def init_process(self) -> None:
        """Start the threads, then what gthread starts."""
        self._waiting: set[Connection] = set()
        self._buffered = 0
        self._ready: queue.SimpleQueue[Connection | Callable[[], None] | None] = queue.SimpleQueue()
        self._loop: Loop | None = None
        self._look_at = self._notify_at = 0.0
        self._snapshot = Snapshot(self.cfg)
        self._shared: Collaborators | None = None
        self._tls: ssl.SSLContext | None = ssl_context(self.cfg) if self.cfg.is_ssl else None
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application and remember its collaborators."""
        super().load_wsgi()
        self._shared = self.wsgi.extensions["clearsight"]
        if not self._tls:
            self._loop = Loop(self.poller, self._ready.put, self.method_queue.defer)

    def get_thread_pool(self) -> Any:
        """Start threads that take whole requests; the object that gthread wants to shut down is the worker itself."""
        for index in range(self.cfg.threads):
            threading.Thread(target=self._serve, name=f"request-{index}", daemon=True).start()
        return self

    def shutdown(self, wait: bool = True) -> None:
        """End the threads once they are done with what they hold."""
        del wait
        for _ in range(self.cfg.threads):
            self._ready.put(None)

    # The main loop

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a stopping worker first takes those that came before it was told to stop."""
        if not self.alive:
            for listener in self.sockets:
                for _ in range(self.cfg.backlog):
                    if not self.accept(listener):
                        break
        super().set_accept_enabled(enabled)

    def accept(self, listener: Any) -> bool:
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
            data = sock.recv(conn.missing)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self._register(conn)
            return
        except OSError:
            data = b""
        if not data:
            self._discard(conn)
            return
        self._take(conn, data)

    def _take(self, conn: Connection, data: bytes) -> None:
        """Add what was read, and hand the request on once it is complete or to be refused."""
        if conn.idle:
            conn.deadline = time.monotonic() + self._shared_settings().read_timeout_s
        self._buffered += len(data)
        if conn.feed(data) or self._refuses(conn):
            self._dispatch(conn)
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

    def _dispatch(self, conn: Connection) -> None:
        self._buffered -= len(conn.received)
        if self._loop and conn.complete and _INFERENCE.match(conn.received):
            conn.busy = True
            conn.deadline = math.inf
            self._register(conn)
            self._loop.run(self._serve_beside, conn)
            return
        self._unregister(conn)
        self._waiting.discard(conn)
        self._ready.put(conn)

    def _discard(self, conn: Connection) -> None:
        self._unregister(conn)
        self._waiting.discard(conn)
        self._buffered -= len(conn.received)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
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
        for conn in [c for c in self._waiting if force or c.deadline <= now]:
            if not conn.idle and not conn.busy:
                self._refuse(conn.sock, RequestTimeout("The request did not arrive in time."))
            self._discard(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer what is no HTTP, or what failed around the application; without its stack trace."""
        if isinstance(exc, ParseException) and not isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName):
            error: ServiceError = RequestMalformed(f"The request is not HTTP as it is read here: {str(exc)[:200]}")
            error.status = _STATUSES.get(type(exc), error.status)
            log.warning("request.malformed", reason=type(exc).__name__, status=error.status)
        else:
            log.exception("request.failed")
            error = ServiceError("The service failed.")
        self._refuse(client, error)

    def _refuse(self, sock: Any, error: ServiceError) -> None:
        """Count and send an answer that the application does not make."""
        assert self._shared is not None
        self._shared.engine.observe(UNMATCHED, error.status, {})
        with contextlib.suppress(OSError):
            sock.send(refusal(error))

    def murder_pending(self) -> None:
        """Nothing more is pending than what `murder_keepalived` looks after."""

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; a stopping worker looks more often whether it is done."""
        if self._loop and self._loop.looks:
            timeout = min(timeout, LOOK_S)
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, 0.1))
        now = time.monotonic()
        if self._loop and now >= self._look_at:
            self._look_at = now + LOOK_S
            for look in list(self._loop.looks):
                look()

    def notify(self) -> None:
        """Tell the master, now and then, that the main loop turns."""
        now = time.monotonic()
        if now >= self._notify_at:
            self._notify_at = now + _NOTIFY_S
            super().notify()

    # Beside one another in the main loop

    def _serve_beside(self, conn: Connection) -> None:
        """Answer one request; the connection stays with the poller meanwhile."""
        try:
            if not self._answer(conn):
                self._unregister(conn)
                self._waiting.discard(conn)
                self._ready.put(partial(self._hang_up, conn))
                return
            leftover = conn.parser.unreader.take_buffered()
            if leftover:
                self.method_queue.defer(self._go_on, conn, leftover)
            else:
                self._go_on(conn)
        except Exception:
            self.log.exception("connection.failed")
            self._discard(conn)

    def _go_on(self, conn: Connection, data: bytes = b"") -> None:
        """Wait for the next request of a connection, of which `data` has come already."""
        conn.forget()
        self._allow(conn, float(self.cfg.keepalive))
        if data:
            self._take(conn, data)
        else:
            self._register(conn)

    # The threads

    def _serve(self) -> None:
        while True:
            task = self._ready.get()
            if task is None:
                return
            if not isinstance(task, Connection):
                task()
                continue
            try:
                self._serve_connection(task)
            except Exception:  # a thread must outlive whatever one connection does
                self.log.exception("connection.failed")
                self.method_queue.defer(self._close, task)

    def _serve_connection(self, conn: Connection) -> None:
        """Answer requests of one connection while they come quickly; then give it back to the main loop."""
        while True:
            conn.sock.settimeout(SEND_S)
            keep = self._answer(conn)
            conn.forget()
            if not keep:
                self._hang_up(conn)
                return
            if not self._linger(conn):
                self.method_queue.defer(self._await_request, conn, float(self.cfg.keepalive))
                return

    def _hang_up(self, conn: Connection) -> None:
        util.close_graceful(conn.sock)
        self.method_queue.defer(self._close, conn)

    def _linger(self, conn: Connection) -> bool:
        """Wait a moment for the next request; True when it is there as a whole and may be answered here."""
        leftover = conn.parser.unreader.take_buffered()
        if leftover:
            return conn.feed(leftover)
        if self._loop or not self.alive or not self._ready.empty():
            return False  # others wait for this thread, or the main loop answers what comes next
        conn.sock.settimeout(_LINGER_S)
        try:
            data = conn.sock.recv(65536)
        except OSError:  # nothing came, or the client left: the main loop will see which
            return False
        return conn.feed(data) if data else False

    def _answer(self, conn: Connection) -> bool:
        """Answer one request; return whether the connection may go on."""
        if conn.parser is None:
            conn.parser = PeerParser(self._snapshot, conn.sock, conn.client)
        parser = conn.parser
        request = None
        try:
            parser.unreader.unread(bytes(conn.received))
            request = next(parser)
            return self._respond(conn, request)
        except (NoMoreData, StopIteration, OSError):
            return False
        except Exception as error:
            self.handle_error(request, conn.sock, conn.client, error)
            return False

    def _respond(self, conn: Connection, request: Any) -> bool:
        reply = Reply()
        body = self.wsgi(environ_of(request, conn), reply.start)
        try:
            close = request.should_close() or not self.alive
            conn.send(reply.encode(body, request, close))
        finally:
            if hasattr(body, "close"):
                body.close()
        return not close and (conn.complete or bool(conn.parser.finish_body(deadline=time.monotonic() + 1.0)))

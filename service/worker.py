"""The gunicorn worker: requests for inference run in the main loop itself, beside one another.

Each steps aside while its batch runs. All other requests, and with TLS every one, are given to a thread.
"""

from __future__ import annotations

import gc
import io
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from gunicorn import util
from gunicorn.http.body import LengthReader
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

from service.connection import SEND_S, Connection
from service.environ import environ_of
from service.errors import RequestMalformed, ServiceError
from service.http1 import PeerParser, Reply, Snapshot
from service.loop import LOOK_S, Loop
from service.reading import GIVES_WAY_TURN_S, Reader

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.worker"))

_LINGER_S = 0.004
_INFERENCE = re.compile(rb"POST /(predict[ ?]|predictions/|v1/models/|v2/models/)")
_BESIDE_BYTES = 2**20
"""A larger body takes so long to unpack that it would hold up the others."""
_NOTIFY_S = 0.5
_AT_ONCE_S = 0.001
"""Events that are there so soon came while the last turn was at work."""
_STATUSES = {
    ForbiddenProxyRequest: 403,
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
"""Where HTTP has a more precise status than 400."""


class Worker(Reader):
    """Answers what `Reader` reads."""

    def init_process(self) -> None:
        """Start the threads, then what gthread starts."""
        self._ready: queue.SimpleQueue[Connection | Callable[[], None] | None] = queue.SimpleQueue()
        self._loop: Loop | None = None
        self._look_at = self._notify_at = 0.0
        self._snapshot = Snapshot(self.cfg)
        self.hand_on = self._take
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application and remember its collaborators."""
        super().load_wsgi()
        self._shared = self.wsgi.extensions["clearsight"]
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again and again costs requests their time
        self._began = time.monotonic()
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

    def _take(self, conn: Connection) -> None:
        """Run what is for inference here, and give the rest to a thread."""
        self._buffered -= len(conn.received)
        quick = conn.complete and conn.length <= _BESIDE_BYTES and _INFERENCE.match(conn.received)
        if self._loop and quick:
            conn.busy = True
            conn.deadline = math.inf
            self._register(conn)
            self._loop.run(self._serve_beside, conn)
            return
        self._unregister(conn)
        self._waiting.discard(conn)
        self._ready.put(conn)

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

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; a stopping worker looks more often whether it is done."""
        if self._loop and self._loop.looks:
            timeout = min(timeout, LOOK_S)
        asked = time.monotonic()
        if asked < self.gives_way_until:
            timeout = GIVES_WAY_TURN_S
        events = self.poller.select(timeout if self.alive else min(timeout, 0.1))
        began = time.monotonic()
        self.missed_s = asked - self._began if began - asked < _AT_ONCE_S else 0.0
        self._began = began
        for key, _ in events:
            key.data(key.fileobj)
        if self._loop is None:
            return
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for look in list(self._loop.looks):
                look()
        self._loop.end_turn()

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
            log.exception("connection.failed")
            self._discard(conn)

    def _go_on(self, conn: Connection, data: bytes = b"") -> None:
        """Wait for the next request of a connection, of which `data` has come already."""
        conn.forget()
        self._allow(conn, float(self.cfg.keepalive))
        if data:
            self._add(conn, data)
        else:
            self._register(conn)

    # The threads

    def _serve(self) -> None:
        while True:
            task = self._ready.get()
            if task is None:
                return
            if not isinstance(task, Connection):
                task()  # a job that is offloaded raises nothing here
                continue
            try:
                self._serve_connection(task)
            except Exception:  # a thread must outlive whatever one connection does
                log.exception("connection.failed")
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
        request = None
        try:
            request = self._parse(conn)
            return self._respond(conn, request)
        except (NoMoreData, StopIteration, OSError):
            return False
        except Exception as error:
            self.handle_error(request, conn.sock, conn.client, error)
            return False

    def _parse(self, conn: Connection) -> Any:
        """Return gunicorn's request. The body that is here already goes around the parser, which would copy it."""
        parser = conn.parser
        if not conn.complete:
            parser.unreader.unread(bytes(conn.received))
            return next(parser)
        received = memoryview(conn.received)
        parser.unreader.unread(bytes(received[: conn.head]))
        request = next(parser)
        reader = request.body.reader
        if isinstance(reader, LengthReader) and reader.length == conn.length:
            request.body = io.BytesIO(bytes(received[conn.head : conn.need]))  # which is not copied again
            rest = received[conn.need :]
        else:  # the parser reads the head in another way, and it has the last word
            rest = received[conn.head :]
        if rest:
            parser.unreader.unread(bytes(rest))
        return request

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

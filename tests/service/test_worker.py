"""What a worker answers in its main loop, and what it gives to a thread."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config

from service.connection import Connection
from service.crowd import Crowd
from service.http1 import PeerParser, Snapshot
from service.worker import Worker


@pytest.fixture(autouse=True)
def crowd(monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """The workers that a test has, and no others."""
    crowd = Crowd()
    monkeypatch.setattr("service.reading.CROWD", crowd)
    return crowd


def bare_worker(connections: int = 0) -> Worker:
    """Return worker 1, which was never started."""
    worker = Worker.__new__(Worker)
    worker.age, worker.alive, worker.gives_way_until, worker.nr_conns = 1, True, 0.0, connections
    return worker


@pytest.fixture
def conn() -> Iterator[Connection]:
    left, right = socket.socketpair()
    yield Connection(left, ("127.0.0.1", 1), ("127.0.0.1", 2))
    left.close()
    right.close()


class Recorder:
    """In place of the loop and the poller: what was run, and nothing else."""

    def __init__(self) -> None:
        self.ran: list[Connection] = []

    def run(self, serve: object, conn: Connection) -> None:
        self.ran.append(conn)

    def register(self, *given: object) -> None: ...

    def unregister(self, *given: object) -> None: ...


@pytest.mark.parametrize(
    ("head", "length", "beside"),
    [
        (b"POST /predict HTTP/1.1", 100, True),
        (b"POST /predict?top_k=1 HTTP/1.1", 100, True),
        (b"POST /v2/models/cifar10/infer HTTP/1.1", 100, True),
        (b"POST /v1/models/cifar10:predict HTTP/1.1", 100, True),
        (b"POST /predictions/cifar10 HTTP/1.1", 100, True),
        (b"POST /predict HTTP/1.1", 2**21, False),
        (b"POST /v2/repository/models/cifar10/load HTTP/1.1", 100, False),
        (b"POST /explain HTTP/1.1", 100, False),
        (b"GET /livez HTTP/1.1", 0, False),
    ],
    ids=["predict", "query", "v2", "v1", "torchserve", "large", "load", "explain", "probe"],
)
def test_only_small_whole_requests_for_inference_run_beside_one_another(
    conn: Connection, head: bytes, length: int, beside: bool
) -> None:
    worker, recorder = Worker.__new__(Worker), Recorder()
    worker._loop = worker.poller = recorder  # type: ignore[assignment]
    worker._ready, worker._waiting, worker._buffered = queue.SimpleQueue(), set(), 0
    assert conn.feed(head + b"\r\nContent-Length: %d\r\n\r\n" % length + bytes(length))
    worker._take(conn)
    assert (recorder.ran == [conn], worker._ready.empty(), conn.busy) == (beside, beside, beside)


def test_a_body_that_has_not_come_as_a_whole_is_a_threads(conn: Connection) -> None:
    worker, recorder = Worker.__new__(Worker), Recorder()
    worker._loop = worker.poller = recorder  # type: ignore[assignment]
    worker._ready, worker._waiting, worker._buffered = queue.SimpleQueue(), set(), 0
    conn.feed(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    worker._take(conn)  # it is to be refused
    assert recorder.ran == []
    assert worker._ready.get_nowait() is conn


def parsed(conn: Connection) -> Any:
    worker = Worker.__new__(Worker)
    if conn.parser is None:
        conn.parser = PeerParser(Snapshot(Config()), conn.sock, conn.client)
    return worker._parse(conn)


def test_a_body_that_is_here_goes_around_the_parser_and_what_follows_it_is_the_next_request(conn: Connection) -> None:
    first = b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    second = b"POST /predict?top_k=1 HTTP/1.1\r\nContent-Length: 2\r\n\r\nde"
    assert conn.feed(first + second)
    request = parsed(conn)
    assert (request.path, request.body.read()) == ("/predict", b"abc")
    rest = conn.parser.unreader.take_buffered()
    assert rest == second
    conn.forget()
    assert conn.feed(rest)
    request = parsed(conn)
    assert (request.query, request.body.read()) == ("top_k=1", b"de")
    assert conn.parser.unreader.take_buffered() == b""


def test_a_body_that_nobody_read_is_not_the_next_request(conn: Connection) -> None:
    assert conn.feed(b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    parsed(conn)
    conn.forget()
    assert conn.feed(b"GET /livez HTTP/1.1\r\n\r\n")
    request = parsed(conn)
    assert (request.path, request.body.read()) == ("/livez", b"")


def test_where_the_parser_reads_another_length_it_has_the_last_word(conn: Connection) -> None:
    assert conn.feed(b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcdef")
    conn.length, conn.need = 5, conn.head + 5
    assert parsed(conn).body.read() == b"abc"
    assert conn.parser.unreader.take_buffered() == b"def"


@pytest.mark.parametrize(
    ("missed_s", "room", "taken"),
    [(0.0, 100, 1), (0.017, 100, 5), (0.017, 3, 3), (1.0, 100, 10)],
    ids=["idle", "a turn of 17 ms", "as many as may be open", "as many as are there"],
)
def test_a_long_turn_takes_the_connections_that_came_meanwhile(missed_s: float, room: int, taken: int) -> None:
    """One for each turn would keep a new client waiting while others keep the turns long."""
    worker = bare_worker()
    opened: list[Connection] = []
    worker._tls, worker._shared = None, SimpleNamespace(settings=SimpleNamespace(read_timeout_s=1.0))  # type: ignore[assignment]
    worker._await_request = lambda conn, within_s: opened.append(conn)  # type: ignore[method-assign]
    worker.worker_connections, worker.missed_s = room, missed_s
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        listener.setblocking(False)
        for _ in range(10):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        worker.accept(listener)
        for conn in opened:
            conn.sock.close()
    assert len(opened) == worker.nr_conns == taken


@pytest.mark.parametrize("catches_up", [True, False], ids=["the other catches up", "the other does not"])
def test_a_worker_leaves_a_new_connection_for_a_moment_to_one_that_has_fewer(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, catches_up: bool
) -> None:
    worker, taken = bare_worker(connections=3), []
    worker.worker_connections, worker.missed_s, worker._accepting = 100, 0.0, True
    monkeypatch.setattr(worker, "_accept_one", taken.append)
    crowd.hold(2, 2)
    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as worker.poller:
        worker.sockets = [listener]
        worker.poller.register(listener, selectors.EVENT_READ, worker.accept)
        worker.accept(listener)
        assert (taken, worker._accepting) == ([], False)
        worker.set_accept_enabled(True)
        assert not worker._accepting, "the other has fewer still"
        if catches_up:
            crowd.hold(2, 3)
        else:
            time.sleep(0.011)
        worker.set_accept_enabled(True)
        worker.accept(listener)
        assert (taken, worker._accepting) == ([listener], True)


def test_a_worker_that_stops_is_not_waited_for(crowd: Crowd) -> None:
    worker = bare_worker()
    worker.sockets, worker._accepting = [], True
    worker._count()
    assert crowd.least(besides=2) == 0
    worker.alive = False
    worker.set_accept_enabled(False)
    assert crowd.least(besides=2) is None


def test_what_a_turn_missed_is_known_in_the_next_unless_the_worker_waited() -> None:
    worker = bare_worker()
    worker._loop, worker._began = None, time.monotonic()
    missed: list[float] = []

    def take(listener: socket.socket) -> None:
        missed.append(worker.missed_s)
        listener.accept()[0].close()
        time.sleep(0.03)

    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as worker.poller:
        worker.poller.register(listener, selectors.EVENT_READ, take)

        def connect() -> None:
            socket.create_connection(listener.getsockname()).close()

        connect()
        connect()
        worker.wait_for_and_dispatch_events(1.0)
        worker.wait_for_and_dispatch_events(1.0)
        later = threading.Timer(0.05, connect)
        later.start()
        worker.wait_for_and_dispatch_events(5.0)
        later.join()
    assert missed[1] >= 0.03, "the second came while the first turn was at work"
    assert missed[2] == 0.0, "the third came while the worker waited"


def test_deadlines_are_looked_at_now_and_then(conn: Connection) -> None:
    worker = bare_worker(connections=1)
    worker._waiting, worker._murder_at, worker._buffered = {conn}, 0.0, 0
    worker.poller = Recorder()  # type: ignore[assignment]
    conn.deadline = time.monotonic() + 60
    worker.murder_keepalived()
    conn.deadline = 0.0
    worker.murder_keepalived()
    assert worker._waiting == {conn}, "it was just looked at"
    time.sleep(0.11)
    worker.murder_keepalived()
    assert (worker._waiting, worker.nr_conns) == (set(), 0)

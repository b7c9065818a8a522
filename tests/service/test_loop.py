"""Requests beside one another in one thread: who waits holds nobody up, and each gets what is its own."""

from __future__ import annotations

import io
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.cost import is_quick
from service.ipc.acceptor import Acceptor, Peer
from service.ipc.shared import SharedStream
from service.ipc.stream import Message, Stream
from service.ipc.wire import HEAD
from service.loop import LOOK_S, Loop, aside, current


class Turning:
    """A loop with its poller and one thread for its jobs, turned by the test."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.loop = Loop(self.poller, self.jobs.put, lambda call, *given: self.calls.put(lambda: call(*given)))
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()

    def until(self, met: Callable[[], bool], within_s: float = 10.0) -> None:
        """Turn the loop until a condition is met."""
        end, look_at = time.monotonic() + within_s, time.monotonic() + LOOK_S
        while not met():
            assert time.monotonic() < end
            for key, _ in self.poller.select(0.01) if self.poller.get_map() else []:
                key.data(key.fileobj)
            while not self.calls.empty():
                self.calls.get()()
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_S
                for look in list(self.loop.looks):
                    look()
            self.loop.end_turn()


@pytest.fixture
def turning() -> Iterator[Turning]:
    made = Turning()
    yield made
    made.jobs.put(None)
    made.thread.join()
    made.poller.close()


class Engine:
    """The other end: keeps what it is sent and answers when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.got: queue.SimpleQueue[tuple[Peer, Message]] = queue.SimpleQueue()
        self.path = folder / "rows"
        self.acceptor = Acceptor(self.path, lambda peer, found: self.got.put((peer, found)), lambda peer: None)
        self.acceptor.start()

    def take(self, count: int) -> list[tuple[Peer, Message]]:
        return [self.got.get(timeout=10) for _ in range(count)]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.acceptor.stop()


def packed(number: int, payload: bytes) -> bytes:
    return HEAD.pack(b"i", number, len(payload)) + payload


def test_a_request_that_waits_for_a_thread_holds_nobody_up(turning: Turning) -> None:
    told, order = threading.Event(), []

    def first() -> None:
        assert current() is turning.loop
        order.append(aside(lambda: told.wait(10) and "from the thread"))

    def second() -> None:
        order.append("meanwhile")
        told.set()

    turning.loop.run(first)
    turning.loop.run(second)
    turning.until(lambda: len(order) == 2)
    assert order == ["meanwhile", "from the thread"]


def test_what_a_thread_raises_is_raised_in_its_request(turning: Turning) -> None:
    caught: list[str] = []

    def request() -> None:
        try:
            aside(int, "seven")
        except ValueError as error:
            caught.append(str(error))

    turning.loop.run(request)
    turning.until(lambda: bool(caught))
    assert "seven" in caught[0]


def test_outside_of_a_loop_a_blocking_call_is_just_made() -> None:
    assert current() is None
    assert aside(threading.get_ident) == threading.get_ident()


def test_each_request_gets_its_own_reply_in_whatever_order_they_come(turning: Turning, engine: Engine) -> None:
    shared = SharedStream(turning.loop, Stream.connect(engine.path, 2.0, 2.0), 2.0)
    replies: dict[int, bytes] = {}

    def request(number: int) -> None:
        shared.send(packed(number, b"rows"), memoryview(b""))
        while (found := shared.receive(number)) is None:
            pass
        replies[number] = bytes(found.payload)

    for number in range(1, 9):
        turning.loop.run(request, number)
    turning.loop.end_turn()
    for peer, found in reversed(engine.take(8)):
        peer.send(packed(found.number, f"reply to {found.number}".encode()))
    turning.until(lambda: len(replies) == 8)
    assert replies == {number: f"reply to {number}".encode() for number in range(1, 9)}
    shared.close()


def test_requests_of_one_turn_leave_together_while_the_engine_is_at_work(turning: Turning, engine: Engine) -> None:
    shared = SharedStream(turning.loop, Stream.connect(engine.path, 2.0, 2.0), 2.0)

    def request(number: int) -> None:
        shared.send(packed(number, b""))
        shared.receive(number)

    turning.loop.run(request, 1)
    assert [found.number for _, found in engine.take(1)] == [1]  # nothing was at work: at once
    for number in (2, 3):
        turning.loop.run(request, number)
    with pytest.raises(queue.Empty):
        engine.got.get(timeout=0.2)
    turning.loop.end_turn()
    assert [found.number for _, found in engine.take(2)] == [2, 3]
    for number in (4, 5, 6, 7):
        turning.loop.run(request, number)
    assert [found.number for _, found in engine.take(4)] == [4, 5, 6, 7]  # enough for a piece
    shared.close()


def test_a_reply_that_nobody_waits_for_is_dropped(turning: Turning, engine: Engine) -> None:
    shared = SharedStream(turning.loop, Stream.connect(engine.path, 2.0, 2.0), 2.0)
    seen: list[int] = []

    def impatient() -> None:
        shared.send(packed(1, b""))
        seen.append(0 if shared.receive(1) is None else 1)

    turning.loop.run(impatient)
    turning.until(lambda: seen == [0])
    ((peer, _),) = engine.take(1)
    peer.send(packed(1, b"late"))

    def patient() -> None:
        shared.send(packed(2, b""))
        while (found := shared.receive(2)) is None:
            pass
        seen.append(found.number)

    turning.loop.run(patient)
    engine.take(1)
    peer.send(packed(2, b"in time"))
    turning.until(lambda: seen == [0, 2])
    shared.close()


def test_whoever_waits_for_an_engine_that_is_lost_is_told(turning: Turning, engine: Engine) -> None:
    shared = SharedStream(turning.loop, Stream.connect(engine.path, 2.0, 2.0), 2.0)
    lost: list[int] = []

    def request(number: int) -> None:
        try:
            shared.send(packed(number, b""))
            while shared.receive(number) is None:
                pass
        except OSError:
            lost.append(number)

    turning.loop.run(request, 1)
    turning.loop.run(request, 2)
    turning.loop.end_turn()
    ((peer, _), _) = engine.take(2)
    peer.stream.sock.shutdown(socket.SHUT_RDWR)
    turning.until(lambda: len(lost) == 2)
    turning.loop.run(request, 3)
    assert lost == [1, 2, 3]
    assert turning.loop.looks == []


def test_more_than_the_engine_takes_at_once_follows_and_nothing_is_mixed(turning: Turning) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    shared = SharedStream(turning.loop, Stream(ours, 5.0), 5.0)
    payloads = [bytes([number]) * 3_000_000 for number in (1, 2, 3)]
    turning.loop.run(lambda: [shared.send(packed(n, b""), memoryview(p)) for n, p in enumerate(payloads)] and None)
    wanted, received = b"".join(packed(n, b"") + p for n, p in enumerate(payloads)), bytearray()
    reader = threading.Thread(target=lambda: _read(theirs, received, len(wanted)))
    reader.start()
    turning.until(lambda: len(received) == len(wanted))
    reader.join()
    assert received == wanted
    shared.close()
    theirs.close()


def _read(sock: socket.socket, into: bytearray, count: int) -> None:
    while len(into) < count:
        into += sock.recv(1 << 20)


def test_an_engine_that_reads_nothing_counts_as_lost(turning: Turning) -> None:
    ours, theirs = socket.socketpair()
    shared = SharedStream(turning.loop, Stream(ours, 0.3), 0.3)
    lost: list[bool] = []

    def request() -> None:
        try:
            shared.send(packed(1, b""), memoryview(bytes(20_000_000)))
            while shared.receive(1) is None:
                pass
        except OSError:
            lost.append(True)

    turning.loop.run(request)
    turning.until(lambda: lost == [True])
    theirs.close()


def encoded(kind: str, size: tuple[int, int], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "quick"),
    [
        (encoded("PNG", (32, 32)), True),
        (encoded("JPEG", (500, 375), exif=b"Exif\0\0" + bytes(200)), True),
        (encoded("PNG", (4000, 4000)), False),
        (encoded("JPEG", (4000, 3000)), False),
        (encoded("JPEG", (64, 64), progressive=True), False),
        (encoded("WEBP", (64, 64)), False),
        (encoded("PNG", (32, 32)) + bytes(2**19), False),
        (b"", False),
    ],
    ids=["png", "jpeg", "large-png", "large-jpeg", "progressive", "webp", "many-bytes", "empty"],
)
def test_only_what_says_that_it_is_small_is_decoded_beside_other_requests(data: bytes, quick: bool) -> None:
    assert is_quick(data) is quick


@given(st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_no_bytes_make_the_estimate_fail(rest: bytes, head: bytes) -> None:
    assert is_quick(head + rest) in (True, False)

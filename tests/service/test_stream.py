"""Rows and answers on stream sockets: whole messages whatever the kernel cuts them into, and a clean end."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import ServiceError, subclasses
from service.ipc import wire
from service.ipc.acceptor import Acceptor, Peer
from service.ipc.stream import Message, Stream
from service.ipc.wire import HEAD


def message(number: int, payload: bytes) -> bytes:
    return HEAD.pack(b"i", number, len(payload)) + payload


@pytest.fixture
def ends() -> Iterator[tuple[Stream, Stream]]:
    left, right = socket.socketpair()
    pair = Stream(left, 1.0), Stream(right, 1.0)
    yield pair
    for end in pair:
        end.close()


@pytest.mark.parametrize("step", [1, 19, 21, 33, 500], ids=lambda step: f"{step} bytes at a time")
def test_messages_arrive_whole_and_in_order_however_they_are_cut(ends: tuple[Stream, Stream], step: int) -> None:
    sent = [(1, b""), (2, b"x" * 40), (3, bytes(range(200)))]
    wire = b"".join(message(*one) for one in sent)
    received = []
    for start in range(0, len(wire), step):
        ends[0].sock.sendall(wire[start : start + step])
        while (found := ends[1].receive(socket.MSG_DONTWAIT)) is not None:
            received.append((found.number, bytes(found.payload)))
    assert received == sent


def test_a_message_larger_than_the_sockets_buffers_arrives_whole(tmp_path: Path) -> None:
    got: queue.SimpleQueue[tuple[Peer, Message]] = queue.SimpleQueue()
    acceptor = Acceptor(tmp_path / "rows", lambda peer, found: got.put((peer, found)), lambda peer: None)
    acceptor.start()
    stream = Stream.connect(tmp_path / "rows", 5.0, 5.0)
    payload = bytes(range(256)) * 40_000
    stream.send(HEAD.pack(b"i", 7, len(payload)), memoryview(payload))
    peer, found = got.get(timeout=10)
    assert found.number == 7
    assert bytes(found.payload) == payload
    peer.send(message(7, b"answer"))
    reply = stream.receive()
    assert reply is not None
    assert bytes(reply.payload) == b"answer"
    stream.close()
    acceptor.stop()


def test_who_hangs_up_or_talks_nonsense_is_left_and_the_others_go_on(tmp_path: Path) -> None:
    left: queue.SimpleQueue[Peer] = queue.SimpleQueue()
    got: queue.SimpleQueue[Message] = queue.SimpleQueue()
    acceptor = Acceptor(tmp_path / "rows", lambda peer, found: got.put(found), left.put)
    acceptor.start()
    gone, wrong, good = (Stream.connect(tmp_path / "rows", 5.0, 5.0) for _ in range(3))
    gone.close()
    left.get(timeout=10)
    wrong.sock.sendall(b"\xff" * 64)
    left.get(timeout=10)
    with pytest.raises(OSError, match="hung up"):
        wrong.receive()
    good.send(message(1, b"still here"))
    assert bytes(got.get(timeout=10).payload) == b"still here"
    wrong.close()
    good.close()
    acceptor.stop()


def test_every_refusal_crosses_the_wire_whatever_else_is_loaded() -> None:
    import service.app  # noqa: F401 - it has refusals of its own, which are made in another way

    kinds = subclasses()
    assert kinds["internal"] is ServiceError
    for code, kind in kinds.items():
        whole = wire.pack_refusal(7, kind("because", retry_after_s=1.5))
        found = wire.parse_refusal(whole[HEAD.size :])
        assert (type(found), found.code, found.detail, found.retry_after_s) == (kind, code, "because", 1.5)

"""The engine's side of the wire: rows are read by one thread and answered by the runners, all else goes over zmq."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import structlog
import zmq
from bundle.errors import ClearsightError

from service.engine.engine import Engine, split
from service.engine.work import Work
from service.errors import ModelRetired, ServiceError
from service.instance import Instance
from service.ipc import wire
from service.ipc.acceptor import Acceptor, Peer
from service.ipc.catalog import News, describe, status_fields
from service.ipc.remote import RemoteRequest, RemoteWork
from service.ipc.stream import Message
from service.port import ServedModel

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))

_NEWS_S = 0.5
"""Seconds between two editions; a change is told at once."""


class Server:
    """Answers the workers of one instance until it is stopped."""

    def __init__(self, engine: Engine, instance: Instance) -> None:
        self.engine = engine
        self.epoch = uuid.uuid4().hex
        self._instance = instance
        self._context = zmq.Context(1)
        self._replies: deque[list[Any]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._signalled = False
        self._calls = ThreadPoolExecutor(4, thread_name_prefix="call")
        self._open: dict[tuple[Peer, int], list[Work]] = {}
        self._acceptor = Acceptor(instance.rows_path, self._take, self._leave)
        self._next_number = itertools.count(1)
        self._numbers: dict[ServedModel, int] = {}
        self._by_number: dict[int, ServedModel] = {}
        self._told: Any = None
        self._serials = itertools.count(1)
        self._numbering = threading.Lock()
        engine.fleet.on_change = self._wake
        self._observing = threading.Lock()
        self._observed: dict[str, str] = {}
        """By worker: the last batch of observations that was added."""
        self._stopping = threading.Event()

    def run(self, drain_s: float) -> None:
        """Serve in this thread until `stop`; then finish what is open, for at most `drain_s`."""
        router = self._bind(zmq.ROUTER, self._instance.engine_address)
        news = self._bind(zmq.PUB, self._instance.news_address)
        self._acceptor.start()
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        next_news = 0.0
        end = float("inf")
        while time.monotonic() < end:
            if self._stopping.is_set():
                end = min(end, time.monotonic() + drain_s) if self._open or self._replies else 0.0
            for ready, _ in poller.poll(max(0, int((next_news - time.monotonic()) * 1000))):
                if ready is router or ready == router:
                    self._receive(router)
                else:
                    self._clear_wake()
            self._send(router)
            roster = self.engine.fleet.roster
            catalog = (roster.champions()[0], set(self.engine.fleet.lanes), roster.first_look.is_set())
            if time.monotonic() >= next_news or catalog != self._told:
                news.send(self._edition().encode())
                self._told = catalog
                next_news = time.monotonic() + _NEWS_S
        self._acceptor.stop()
        router.close(linger=200)
        news.close(linger=200)
        self._calls.shutdown(wait=True, cancel_futures=True)
        self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def stop(self) -> None:
        """End `run` once what is open is finished."""
        self._stopping.set()
        self._wake()

    def _bind(self, kind: int, address: str) -> Any:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0  # bounded by the queue and the tickets, never dropped silently
        socket.bind(address)
        return socket

    # Out

    def reply(self, frames: list[Any]) -> None:
        """Send frames to a worker; any thread may call it."""
        self._replies.append(frames)
        if not self._signalled:
            self._wake()

    def _wake(self) -> None:
        self._signalled = True
        try:
            os.write(self._wake_write, b"\0")
        except OSError:
            return  # it is awake already, or has stopped

    def _clear_wake(self) -> None:
        self._signalled = False
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return

    def _send(self, router: Any) -> None:
        while self._replies:
            router.send_multipart(self._replies.popleft(), zmq.NOBLOCK, copy=True)

    # In

    def _receive(self, router: Any) -> None:
        """Take every message that is there."""
        while True:
            try:
                frames = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._dispatch(frames)
            except Exception:  # a malformed message must not end the engine
                log.exception("message.bad")

    def _dispatch(self, frames: list[bytes]) -> None:
        who, number, kind = frames[0], frames[1], frames[2]
        if kind == wire.PING:
            state = self.engine.state()
            trouble = "" if state.live else state.problems[0]
            pulse = {"trouble": trouble, "started": state.started, "ready": state.ready}
            self.reply([who, number, wire.RESULT, json.dumps(pulse).encode()])
        elif kind == wire.CALL:
            self._calls.submit(self._call, who, number, frames[3:])

    # Rows

    def _take(self, peer: Peer, message: Message) -> None:
        if message.kind == wire.CANCEL:
            for work in self._open.get((peer, message.number), []):
                work.dropped = True
            return
        try:
            self._infer(peer, message)
        except ClearsightError as error:
            self._open.pop((peer, message.number), None)
            peer.send(wire.pack_refusal(message.number, error))

    def _leave(self, peer: Peer) -> None:
        """Nobody waits any more for what a lost peer has asked."""
        for (who, _), works in list(self._open.items()):
            if who is peer:
                for work in works:
                    work.dropped = True

    def _infer(self, peer: Peer, message: Message) -> None:
        asked = wire.parse_inference(message.payload)
        served = self._by_number.get(asked.served)
        if served is None:
            raise ModelRetired("The version was replaced while the request was read.")
        lane = self.engine.lane_of(served)
        recipe = served.manifest
        shape = (asked.images, recipe.height, recipe.width, recipe.preprocessing.channels)
        rows = np.frombuffer(asked.rows, np.uint8).reshape(shape)
        request = RemoteRequest(peer, message.number, self._finish, lambda: self._wait_ahead_s(served))
        parts = split(rows, lane.plan.cap)
        works = [RemoteWork(part, asked.outputs, asked.deadline, request, at) for at, part in enumerate(parts)]
        request.missing = len(works)
        self._open[peer, message.number] = list(works)
        assert self.engine.batcher is not None
        self.engine.batcher.submit(lane, list(works))

    def _wait_ahead_s(self, served: ServedModel) -> float:
        lane, batcher = self.engine.fleet.lanes.get(served), self.engine.batcher
        return batcher.wait_ahead_s(lane) if batcher and lane else 0.0

    def _finish(self, peer: Peer, number: int, message: bytes) -> None:
        """Close an open request with its reply, which leaves with the peer's next `flush`."""
        self._open.pop((peer, number), None)
        peer.hold(message)

    # Calls

    def _call(self, who: bytes, number: bytes, frames: list[bytes]) -> None:
        try:
            result = self._handlers()[frames[0].decode()](*frames[1:])
            self.reply([who, number, wire.RESULT, result])
        except ClearsightError as error:
            self.reply([who, *wire.refusal_frames(number, error)])
        except Exception:  # the caller gets an answer whatever happens
            log.exception("call.failed", call=frames[0][:40].decode(errors="replace"))
            self.reply([who, *wire.refusal_frames(number, ServiceError("The engine failed."))])

    def _handlers(self) -> dict[str, Callable[..., bytes]]:
        engine = self.engine
        return {
            "manifest": lambda n: self._by_number[int(n)].manifest.to_json(),
            "load": lambda a: _done(engine.load, a),
            "unload": lambda a: _done(engine.unload, a),
            "reload": lambda: _done(engine.reload, b"[]"),
            "batching": lambda a: json.dumps(engine.batching(*json.loads(a))).encode(),
            "observe": lambda a: _done(self._observe, a),
            "take": lambda caller: repr(engine.take(caller.decode())).encode(),
            "metrics": engine.metrics_text,
            "explain": self._explain,
            "news": lambda: self._edition().encode(),
        }

    def _observe(self, worker: str, number: str, batch: dict[str, Any]) -> None:
        """Add what a worker counted, unless this batch has come before."""
        with self._observing:
            if self._observed.get(worker) == number:
                return
            self._observed[worker] = number
            self.engine.metrics.merge(batch)

    def _explain(self, number: bytes, shape: bytes, rows: bytes) -> bytes:
        served = self._by_number.get(int(number))
        if served is None:
            raise ModelRetired("The version was replaced while the request was read.")
        maps = self.engine.explain(served, np.frombuffer(rows, np.uint8).reshape(json.loads(shape)))
        if maps is None:
            return b""
        return json.dumps(maps.shape).encode() + b"\n" + maps.tobytes()

    # News

    def _edition(self) -> News:
        with self._numbering:
            return self._numbered()

    def _numbered(self) -> News:
        """Number what is served and describe it.

        What answers is read before the lanes: a lane is there before it is named, and for a while after.
        """
        statuses = self.engine.models()
        champions, absent = self.engine.fleet.roster.champions()
        canaries = self.engine.fleet.roster.canaries()
        lanes = self.engine.fleet.lanes
        for served in lanes:
            if served not in self._numbers:
                number = next(self._next_number)
                self._numbers[served], self._by_number[number] = number, served
        for served in [s for s in self._numbers if s not in lanes]:
            self._by_number.pop(self._numbers.pop(served))
        return News(
            self.epoch,
            self.engine.state(),
            self.engine.settings.default_model,
            {number: describe(served) for number, served in self._by_number.items()},
            {name: self._numbers[served] for name, served in champions.items() if served in self._numbers},
            {n: (self._numbers[served], share) for n, (served, share) in canaries.items() if served in self._numbers},
            absent,
            [status_fields(s, self._numbers.get(s.served) if s.served else None) for s in statuses],
            {self._numbers[served]: self._wait_ahead_s(served) for served in lanes},
            next(self._serials),
        )


def _done(function: Callable[..., None], arguments: bytes) -> bytes:
    function(*json.loads(arguments))
    return b""

"""A worker's standing connection: it hears the engine's news and brings it the worker's observations."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from service.errors import EngineUnavailable, ServiceError
from service.instance import Instance
from service.ipc import wire
from service.ipc.catalog import News, rebuild
from service.metrics import Metrics
from service.port import ServedModel

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.link"))

SILENCE_S = 3.0
"""Without news for this long, the engine counts as gone."""
_BRISK_S = 1.0
"""News come twice a second: an engine that was heard of this recently is there."""
_BRING_S = 0.5
_CALL_S = 5.0


class Link:
    """Keeps the worker's view of the engine: requests read `news`, `served` and `epoch`, one thread follows the news.

    A request that learns more than the news have said calls `catch_up`.
    """

    def __init__(self, instance: Instance, metrics: Metrics) -> None:
        self.context = zmq.Context(1)
        self.first_news = threading.Event()
        self.news: News | None = None
        self.served: dict[int, ServedModel] = {}
        self.epoch = ""
        """The engine that is there; empty while none is."""
        self.waits: dict[int, tuple[float, float]] = {}
        """By number of the served version: seconds that a new image would wait, and when the engine said so."""
        self._instance = instance
        self._metrics = metrics
        self._manifests: dict[str, ServedModel] = {}
        self._hearing = threading.RLock()
        self._heard_at = 0.0
        self._name = uuid.uuid4().hex
        self._bringing = threading.Lock()
        self._unconfirmed: dict[str, Any] | None = None
        self._batches_made = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Bring what is left to the engine and stop listening."""
        self._stop.set()
        self._thread.join(timeout=_CALL_S)
        self.context.destroy(linger=0)

    @property
    def rows_path(self) -> Path:
        """Where the engine takes rows."""
        return self._instance.rows_path

    def dealer(self) -> Any:
        """Return a new socket to the engine; it belongs to the calling thread."""
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.immediate = 1
        socket.reconnect_ivl = 50
        socket.sndhwm = socket.rcvhwm = 0
        socket.connect(self._instance.engine_address)
        return socket

    def call(self, method: str, *frames: bytes, timeout_s: float = _CALL_S) -> bytes:
        """Ask the engine for something rare. Raises its refusal, or `EngineUnavailable` when no answer comes."""
        with self.dealer() as socket:
            if not socket.poll(1000, zmq.POLLOUT):
                raise EngineUnavailable("The engine is being started.", retry_after_s=1.0)
            socket.send_multipart([b"0", wire.CALL, method.encode(), *frames])
            if not socket.poll(int(timeout_s * 1000)):
                raise EngineUnavailable("The engine does not answer.", retry_after_s=1.0)
            reply = socket.recv_multipart()
        if reply[1] == wire.REFUSAL:
            raise wire.parse_refusal(reply[2])
        result: bytes = reply[2]
        return result

    def bring(self) -> None:
        """Give the worker's observations to the engine; they are kept while it is away.

        What was not confirmed may have arrived: it is sent again as it was, under its number, and counts once.
        """
        with self._bringing, contextlib.suppress(ServiceError):
            while batch := self._unconfirmed or self._next_batch():
                number = str(self._batches_made)
                self._unconfirmed = batch
                self.call("observe", json.dumps([self._name, number, batch]).encode(), timeout_s=1.0)
                self._unconfirmed = None

    def _next_batch(self) -> dict[str, Any] | None:
        self._metrics.flush()
        batch = self._metrics.take()
        self._batches_made += batch is not None
        return batch

    def catch_up(self, number: int) -> None:
        """Fetch the present edition, where this number is retired and the news of it have not come yet."""
        with self._hearing:
            if number in self.served:
                with contextlib.suppress(ServiceError):
                    self._hear(News.decode(self.call("news", timeout_s=1.0)))

    def _run(self) -> None:
        news = self.context.socket(zmq.SUB)
        news.linger = 0
        news.reconnect_ivl = 50
        news.subscribe(b"")
        monitor = news.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        news.connect(self._instance.news_address)
        poller = zmq.Poller()
        poller.register(news, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        bring_at = time.monotonic()
        self._ask()
        while not self._stop.is_set():
            ready = dict(poller.poll(int(_BRING_S * 1000)))
            if monitor in ready:
                recv_monitor_message(monitor)
                self._lose("the engine closed its connection")
            if news in ready:
                self._hear(News.decode(news.recv()))
            elif self.epoch and time.monotonic() - self._heard_at > SILENCE_S:
                self._lose("the engine is silent")
            if self.epoch and time.monotonic() >= bring_at and time.monotonic() - self._heard_at < _BRISK_S:
                self.bring()  # which may wait, so not for an engine that may be gone
                bring_at = time.monotonic() + _BRING_S
        if self.epoch:
            self.bring()
        news.disable_monitor()
        monitor.close()
        news.close()

    def _ask(self) -> None:
        """Ask for the present edition instead of waiting for the next one."""
        try:
            self._hear(News.decode(self.call("news", timeout_s=1.0)))
        except ServiceError:
            log.info("engine.awaited")

    def _lose(self, reason: str) -> None:
        if self.epoch:
            log.warning("engine.lost", reason=reason)
        self.epoch = ""
        self._metrics.engine_up.set(0)

    def _hear(self, news: News) -> None:
        """Take an edition; a version that is new here is fetched before any request can see it."""
        with self._hearing:
            overtaken = self.news and news.epoch == self.epoch and news.serial < self.news.serial
            if not overtaken:
                self._take(news)

    def _take(self, news: News) -> None:
        try:
            served = {number: self._known(number, fields) for number, fields in news.served.items()}
        except ServiceError as error:
            log.warning("news.incomplete", reason=error.detail)
            return
        if news.epoch != self.epoch:
            log.info("engine.found", epoch=news.epoch)
        self._manifests = {f"{news.epoch}/{number}": model for number, model in served.items()}
        self.served, self.news, self.epoch = served, news, news.epoch
        self._heard_at = now = time.monotonic()
        self.waits = {number: (wait_s, now) for number, wait_s in news.waits_s.items()}
        self._metrics.engine_up.set(1)
        self.first_news.set()

    def _known(self, number: int, fields: dict[str, Any]) -> ServedModel:
        """Return the served version, the same object for as long as its engine serves it."""
        for key, model in self._manifests.items():
            if key.endswith(f"/{number}") and model.digest == fields["digest"] and model.variant == fields["variant"]:
                return model
        return rebuild(fields, self.call("manifest", str(number).encode()))

"""The engine as a worker sees it: the same port, without onnxruntime in the process."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from service.checks import check_request
from service.departure import departed
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineUnavailable,
    ModelNotReady,
    ModelRetired,
    ModelUnknown,
    ServiceError,
    VersionUnknown,
)
from service.instance import Instance
from service.ipc import wire
from service.ipc.link import Link
from service.ipc.shared import SharedStream
from service.ipc.stream import Message, Stream
from service.loop import LOOK_S, Loop, aside, current
from service.metrics import Metrics
from service.port import PROBABILITIES, Answer, EngineState, ModelStatus, Rows, ServedModel, in_share
from service.settings import Settings

_GRACE_S = 0.05
_SEND_S = 2.0
"""An engine that does not read rows for this long is as good as gone."""
_LOAD_S = 600.0


class EngineClient:
    """Sends rows to the engine's process and waits: in the request's own thread, or beside the others of a loop."""

    def __init__(self, settings: Settings, metrics: Metrics, instance: Instance) -> None:
        self.settings = settings
        self.metrics = metrics
        self.link = Link(instance, metrics)
        self._idle: list[tuple[str, Stream]] = []
        """Connections that no thread uses, each with the engine that it leads to."""
        self._shared: tuple[str, SharedStream] | None = None
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Begin to listen to the engine."""
        self.link.start()

    def stop(self) -> None:
        """Bring the last observations and stop listening."""
        while self._idle:
            self._idle.pop()[1].close()
        self.link.stop()

    # Requests

    def resolve(self, model: str | None, version: int | None) -> ServedModel:
        """See `EnginePort.resolve`."""
        news, served = self.link.news, self.link.served
        if news is None or not self.link.epoch:
            raise EngineUnavailable("The engine is being started.", retry_after_s=1.0)
        name = model or news.default
        if version is None:
            number = news.champions.get(name)
            if number is not None:
                return served[number]
        else:
            for candidate in served.values():
                if candidate.name == name and candidate.version == version:
                    return candidate
        raise self._why_absent(name, version)

    def choose(self, model: str | None, version: int | None, key: str) -> ServedModel:
        """See `EnginePort.choose`."""
        news, served = self.link.news, self.link.served
        if version is None and news is not None and news.canaries and self.link.epoch:
            number, share = news.canaries.get(model or news.default, (0, 0.0))
            canary = served.get(number)
            if canary is not None and in_share(key, share):
                return canary
        return self.resolve(model, version)

    def _why_absent(self, name: str, version: int | None) -> ModelUnknown | VersionUnknown | ModelNotReady:
        news = self.link.news
        assert news is not None
        if not news.state.started:
            return ModelNotReady("The models are still being loaded.", retry_after_s=1.0)
        if name not in news.champions and name not in news.absent:
            there = ", ".join({**news.champions, **news.absent}) or "none"
            return ModelUnknown(f"No model {name!r}; there are: {there}.")
        if version is None:
            return ModelNotReady(news.absent[name], retry_after_s=1.0)
        listed = ", ".join(sorted(str(s.version) for s in self.link.served.values() if s.name == name)) or "none"
        return VersionUnknown(f"{name} does not serve version {version}; versions served: {listed}.")

    def admit(self, deadline: float, images: int = 1, model: str | None = None) -> None:
        """See `EnginePort.admit`: judged by what the engine said with its last reply, so it costs no message."""
        served = self.resolve(model, None)
        now = time.monotonic()
        wait_s, said_at = self.link.waits.get(self._find(served) or 0, (0.0, now))
        late_s = wait_s - (now - said_at) - (deadline - now)
        if late_s > 0:
            raise DeadlineUnreachable(
                f"About {wait_s:.3f} s of work are waiting, which is beyond the deadline.", retry_after_s=late_s
            )

    def infer(
        self,
        served: ServedModel,
        rows: Rows,
        *,
        deadline: float,
        outputs: tuple[str, ...] = PROBABILITIES,
        client: socket.socket | None = None,
    ) -> Answer:
        """See `EnginePort.infer`."""
        check_request(served, rows, outputs)
        number, served_number = next(self._numbers), self._number_of(served)
        parts = wire.pack_inference(number, served_number, rows, deadline, outputs)
        epoch, stream = self._stream()
        try:
            stream.send(*parts)
            message = self._await(stream, number, epoch, deadline, client)
        except (OSError, ValueError):
            stream.close()
            raise EngineUnavailable("The engine was lost while it held this request.", retry_after_s=1.0) from None
        finally:
            self._give_back(epoch, stream)
        if message.kind == wire.REFUSAL:
            refusal = wire.parse_refusal(message.payload)
            if isinstance(refusal, ModelRetired):
                aside(self.link.catch_up, served_number)
            if len(rows) == 1:  # more images may find no room where one does
                self._learn(served_number, refusal, deadline)
            raise refusal
        answer, wait_s = wire.parse_answer(message.payload, served, len(rows), outputs)
        self.link.waits[served_number] = (wait_s, time.monotonic())
        return answer

    def _learn(self, served_number: int, refusal: ServiceError, deadline: float) -> None:
        """Remember how long the engine is full: whoever comes meanwhile is refused before an image is decoded."""
        if isinstance(refusal, DeadlineUnreachable) and refusal.retry_after_s is not None:
            now = time.monotonic()
            self.link.waits[served_number] = (deadline - now + refusal.retry_after_s, now)

    def _find(self, served: ServedModel) -> int | None:
        return next((number for number, known in self.link.served.items() if known is served), None)

    def _number_of(self, served: ServedModel) -> int:
        number = self._find(served)
        if number is None:
            raise ModelRetired(f"{served.name} version {served.version} was replaced while the request was read.")
        return number

    def _stream(self) -> tuple[str, Stream | SharedStream]:
        """Return the caller's connection to the engine that is there; one to an earlier engine is thrown away."""
        epoch, loop = self.link.epoch, current()
        if not epoch:
            raise EngineUnavailable("The engine is being started.", retry_after_s=1.0)
        try:
            return epoch, self._stream_of_loop(loop, epoch) if loop else self._stream_of_thread(epoch)
        except OSError:
            raise EngineUnavailable("The engine is being started.", retry_after_s=1.0) from None

    def _stream_of_thread(self, epoch: str) -> Stream:
        """Return a connection that no other thread uses, the last used first: there are as many as work at once."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was quicker
                known, stream = self._idle.pop()
                if known == epoch:
                    return stream
                stream.close()
        return Stream.connect(self.link.rows_path, _SEND_S, LOOK_S)

    def _stream_of_loop(self, loop: Loop, epoch: str) -> SharedStream:
        if self._shared is None or self._shared[0] != epoch or self._shared[1].lost:
            if self._shared:
                self._shared[1].close()
            connected = Stream.connect(self.link.rows_path, _SEND_S, LOOK_S)
            self._shared = (epoch, SharedStream(loop, connected, _SEND_S))
        return self._shared[1]

    def _give_back(self, epoch: str, stream: Stream | SharedStream) -> None:
        if isinstance(stream, Stream) and not stream.closed:
            self._idle.append((epoch, stream))

    def _await(
        self,
        stream: Stream | SharedStream,
        number: int,
        epoch: str,
        deadline: float,
        client: socket.socket | None,
    ) -> Message:
        """Wait for the reply of this number; replies to requests that were given up are dropped."""
        while True:
            message = stream.receive(number) if isinstance(stream, SharedStream) else stream.receive()
            if message is not None:
                if message.number == number:
                    return message
                continue
            if self.link.epoch != epoch:
                raise EngineUnavailable("The engine was lost while it held this request.", retry_after_s=1.0)
            late = time.monotonic() > deadline + _GRACE_S
            if late or (client is not None and departed([client])):
                stream.send(wire.pack_cancel(number))
                if late:
                    raise DeadlineExceeded("The deadline passed while the images were waiting or running.")
                raise ClientGone("The client closed the connection while its images were waiting.")

    def explain(self, served: ServedModel, rows: Rows) -> npt.NDArray[np.float32] | None:
        """See `EnginePort.explain`."""
        shape = json.dumps(rows.shape).encode()
        number = str(self._number_of(served)).encode()
        raw = aside(self.link.call, "explain", number, shape, rows.tobytes(), timeout_s=30.0)
        if not raw:
            return None
        head, _, body = raw.partition(b"\n")
        return np.frombuffer(body, np.float32).reshape(json.loads(head))

    # The rest of the port

    def models(self) -> list[ModelStatus]:
        """See `EnginePort.models`."""
        news, served = self.link.news, self.link.served
        if news is None:
            return []
        return [
            ModelStatus(**{**fields, "served": served.get(fields["served"]) if fields["served"] else None})
            for fields in news.statuses
        ]

    def state(self) -> EngineState:
        """See `EnginePort.state`; never waits for the engine."""
        news = self.link.news
        if news is None or not self.link.epoch:
            device = news.state.device if news else f"{self.settings.device} -> unknown"
            return EngineState(True, news is not None, False, device, ["the engine is being started"])
        return news.state

    def load(self, model: str, version: int | None = None) -> None:
        """See `EnginePort.load`."""
        self.link.call("load", json.dumps([model, version]).encode(), timeout_s=_LOAD_S)

    def unload(self, model: str, version: int | None = None) -> None:
        """See `EnginePort.unload`."""
        self.link.call("unload", json.dumps([model, version]).encode(), timeout_s=_LOAD_S)

    def reload(self) -> None:
        """See `EnginePort.reload`."""
        self.link.call("reload", timeout_s=_LOAD_S)

    def batching(self, rate: float | None = None, model: str | None = None) -> dict[str, Any]:
        """See `EnginePort.batching`."""
        answer: dict[str, Any] = json.loads(self.link.call("batching", json.dumps([rate, model]).encode()))
        return answer

    def observe(self, route: str, status: int, stages: dict[str, float]) -> None:
        """See `EnginePort.observe`."""
        self.metrics.observe(route, status, stages)

    def reject(self, reason: str) -> None:
        """See `EnginePort.reject`."""
        self.metrics.reject(reason)

    def take(self, caller: str) -> float:
        """See `EnginePort.take`: one budget for all workers, so it costs a message where a limit is set."""
        return float(aside(self.link.call, "take", caller.encode()))

    def metrics_text(self) -> bytes:
        """See `EnginePort.metrics_text`; while the engine is away, what this worker holds for it."""
        if self.link.epoch:
            try:
                self.link.bring()
                return self.link.call("metrics", timeout_s=2.0)
            except EngineUnavailable:
                pass
        return self.metrics.text()

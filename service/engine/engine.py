"""The engine: which versions are served, and the way of a request's rows through them."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from service.checks import check_request
from service.engine.batcher import Batcher
from service.engine.beside import BesideWork
from service.engine.explain import Explainer
from service.engine.fleet import Fleet
from service.engine.plan import predict_latency
from service.engine.rates import Rates
from service.engine.work import AwaitedWork, Lane, Work
from service.errors import DeadlineExceeded, EngineUnavailable, ModelRetired
from service.loop import current
from service.metrics import Metrics
from service.port import PROBABILITIES, Answer, EngineState, ModelStatus, Rows, ServedModel
from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))


class Engine:
    """Owns the sessions, the batch queue, the life cycle of models and the metrics of one accelerator."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.fleet = Fleet(settings, metrics)
        self._explainer = Explainer()
        self._rates = Rates(settings.rate_limit, settings.rate_burst)
        metrics.watch_engine(lambda: self.batcher.queued if self.batcher else 0)

    @property
    def batcher(self) -> Batcher | None:
        """The batcher, once the device is known."""
        return self.fleet.accelerator.batcher

    def start(self) -> None:
        """Begin loading in the background; `state().ready` says when the default model answers."""
        self.fleet.start()

    def stop(self) -> None:
        """Refuse new work, finish what runs, and give everything back."""
        self.fleet.stop()

    def sum_up(self) -> None:
        """Write what was answered, by route and status, to the log: nobody can ask a process that has ended."""
        log.info("engine.stopped", answered=self.metrics.answered())

    def resolve(self, model: str | None, version: int | None) -> ServedModel:
        """See `EnginePort.resolve`."""
        return self.fleet.roster.resolve(model, version).served

    def choose(self, model: str | None, version: int | None, key: str) -> ServedModel:
        """See `EnginePort.choose`."""
        return self.fleet.roster.choose(model, version, key).served

    def admit(self, deadline: float, images: int = 1, model: str | None = None) -> None:
        """See `EnginePort.admit`."""
        lane = self.fleet.roster.resolve(model, None)
        assert self.batcher is not None
        self.batcher.admit(lane, images, deadline)

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
        lane, batcher = self.lane_of(served), self.batcher
        assert batcher is not None
        check_request(served, rows, outputs)
        parts, loop = split(rows, lane.plan.cap), current()
        works: list[AwaitedWork | BesideWork]
        if loop:
            works = [BesideWork(part, outputs, deadline, client, loop) for part in parts]
        else:
            works = [AwaitedWork(part, outputs, deadline, client) for part in parts]
        if len(works) == 1 and isinstance(works[0], AwaitedWork):
            batcher.run_or_submit(lane, works[0])
        else:
            batcher.submit(lane, list[Work](works))
        try:
            answers = [work.wait(deadline - time.monotonic()) for work in works]
        except DeadlineExceeded:
            for work in works:
                work.dropped = True
            raise
        return answers[0] if len(answers) == 1 else join(answers)

    def lane_of(self, served: ServedModel) -> Lane:
        """Return the lane of a resolved version. Raises `ModelRetired` when it was swapped out since."""
        lane = self.fleet.lanes.get(served)
        if lane is None or lane.closed:
            raise ModelRetired(f"{served.name} version {served.version} was replaced while the request was read.")
        return lane

    def explain(self, served: ServedModel, rows: Rows) -> npt.NDArray[np.float32] | None:
        """See `EnginePort.explain`."""
        return self._explainer.explain(self.lane_of(served), self.fleet.store, rows)

    def models(self) -> list[ModelStatus]:
        """See `EnginePort.models`."""
        return self.fleet.roster.statuses()

    def state(self) -> EngineState:
        """See `EnginePort.state`."""
        state = self.fleet.roster.state()
        if trouble := self._trouble():
            return EngineState(False, state.started, False, state.device, [trouble, *state.problems])
        return state

    def _trouble(self) -> str:
        """Say what only a new process can mend; nothing while all is well."""
        if self.batcher is None:
            return ""
        oldest_s = self.batcher.oldest_batch_s()
        if oldest_s <= self.settings.batch_limit_s:
            return self.batcher.lost
        return f"a batch has been running for {oldest_s:.0f} s; {self.settings.batch_limit_s:.0f} s are allowed"

    def load(self, model: str, version: int | None = None) -> None:
        """See `EnginePort.load`."""
        self.fleet.load(model, version)

    def unload(self, model: str, version: int | None = None) -> None:
        """See `EnginePort.unload`."""
        self.fleet.unload(model, version)

    def reload(self) -> None:
        """See `EnginePort.reload`."""
        self.fleet.reload()

    def batching(self, rate: float | None = None, model: str | None = None) -> dict[str, Any]:
        """See `EnginePort.batching`."""
        lane, batcher = self.fleet.roster.resolve(model, None), self.batcher
        if batcher is None:
            raise EngineUnavailable("The engine has not started yet.", retry_after_s=1.0)
        faster = lane.network.faster
        plan = replace(lane.plan, lone_s=faster.seconds) if faster else lane.plan
        answer: dict[str, Any] = {
            "model": lane.served.name,
            "version": str(lane.served.version),
            "variant": lane.served.variant,
            "provider": lane.served.provider,
            "int8_as_matrix_products": lane.network.matrix_products,
            "runners": plan.runners,
            "threads_per_runner": plan.threads,
            "runners_from": plan.source,
            "lone_request_uses_all_cores": faster is not None and faster.wide,
            "cap": plan.cap,
            "objective_p99_ms": round(plan.objective_s * 1000, 3),
            "lone_ms": round(plan.lone_s * 1000, 3),
            "capacity_images_per_second": round(1 / plan.seconds_per_image, 1),
            "curve_ms": {str(n): round(seconds * 1000, 3) for n, seconds in plan.curve.seconds.items()},
            "now": {"queued_images": batcher.queued, "wait_ms": round(batcher.wait_ahead_s(lane) * 1000, 3)},
        }
        if rate is not None:
            seconds = predict_latency(plan, rate)
            answer["rate"] = rate
            answer["predicted_p99_ms"] = None if seconds == float("inf") else round(seconds * 1000, 3)
        return answer

    def take(self, caller: str) -> float:
        """See `EnginePort.take`."""
        return self._rates.take(caller)

    def observe(self, route: str, status: int, stages: dict[str, float]) -> None:
        """See `EnginePort.observe`."""
        self.metrics.observe(route, status, stages)

    def reject(self, reason: str) -> None:
        """See `EnginePort.reject`."""
        self.metrics.reject(reason)

    def metrics_text(self) -> bytes:
        """See `EnginePort.metrics_text`."""
        return self.metrics.text()


def split(rows: Rows, cap: int) -> list[Rows]:
    """Cut rows into parts that fit into one batch each."""
    return [rows] if len(rows) <= cap else [rows[start : start + cap] for start in range(0, len(rows), cap)]


def join(answers: list[Answer]) -> Answer:
    """Put the parts of one request together again: rows in order, times of the slowest part."""
    outputs = {name: np.concatenate([a.outputs[name] for a in answers]) for name in answers[0].outputs}
    timings = {stage: max(a.timings[stage] for a in answers) for stage in answers[0].timings}
    return Answer(answers[0].model, outputs, timings, max(a.batch_size for a in answers))


@contextlib.contextmanager
def running(engine: Engine) -> Any:
    """Start an engine, wait until it has looked at the store once, and stop it at the end."""
    engine.start()
    try:
        engine.fleet.roster.first_look.wait()
        yield engine
    finally:
        engine.stop()

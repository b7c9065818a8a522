"""Every metric of the service, declared here and owned by the one process that runs the engine."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from service.port import ServedModel
from service.tally import BulkHistogram

if TYPE_CHECKING:
    from service.engine.work import BatchReport

STAGES = ("read", "decode", "queue", "assemble", "infer", "encode")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MODEL = ("model", "version", "digest", "variant", "provider")
T = TypeVar("T")
_FLUSH_AT = 2048
_KEPT = 100_000
"""Observations that are kept while nobody collects them; older ones are counted as lost."""


class Metrics:
    """The registry. The hot path appends; what was appended is added up when someone looks, or every few thousand."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._declare_requests(self.registry)
        self._declare_models(self.registry)
        self.engine_up = Gauge("clearsight_engine_up", "1 while the engine answers.", registry=self.registry)
        self.engine_starts = Counter(
            "clearsight_engine_starts", "Starts of the engine under this parent.", registry=self.registry
        )
        self.engine_up.set(1)
        self._rejected: deque[str] = deque(maxlen=_KEPT)
        self._requests: deque[tuple[str, int, dict[str, float]]] = deque(maxlen=_KEPT)
        self._batches: deque[BatchReport] = deque(maxlen=_KEPT)
        self._counts: Tally[tuple[str, str, str]] = Tally()
        self._flushing = threading.Lock()

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("clearsight_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.request_seconds = BulkHistogram(
            "clearsight_request_duration_seconds",
            "Time from the first byte parsed to the answer.",
            ["route"],
            SECONDS,
            registry,
        )
        self.stage_seconds = BulkHistogram(
            "clearsight_stage_duration_seconds", "Time in each stage of a prediction.", ["stage"], SECONDS, registry
        )
        self.batch_size = BulkHistogram("clearsight_batch_size", "Images per batch.", ["model"], BATCHES, registry)
        self.dispatches = Counter(
            "clearsight_batch_dispatch",
            "Batches by why they left: idle, queued, full, retry.",
            ["reason"],
            registry=registry,
        )
        self.batch_failures = Counter(
            "clearsight_batch_failures", "Batches that the network could not run.", ["model"], registry=registry
        )
        self.queue_images = Gauge("clearsight_queue_images", "Images waiting in the engine.", registry=registry)
        self.rejected = Counter(
            "clearsight_rejected",
            "Requests refused by the service's own limits, by code.",
            ["reason"],
            registry=registry,
        )

    def _declare_models(self, registry: CollectorRegistry) -> None:
        self.predictions = Counter(
            "clearsight_predictions",
            "Predicted images by top-1 label.",
            ["model", "version", "label"],
            registry=registry,
        )
        self.confidence = BulkHistogram(
            "clearsight_confidence", "Top-1 probability of predicted images.", ["model"], CONFIDENCES, registry
        )
        self.model_info = Gauge(
            "clearsight_model_info", "1 for every version that is served.", MODEL, registry=registry
        )
        self.model_load_seconds = Gauge(
            "clearsight_model_load_seconds", "How long the last load took.", ["model"], registry=registry
        )
        self.load_failures = Counter(
            "clearsight_model_load_failures", "Versions that could not be loaded.", ["model"], registry=registry
        )
        self.shadow_images = Counter(
            "clearsight_shadow_images",
            "Images that the shadow saw too, by whether its first label was the champion's.",
            ["model", "version", "agrees"],
            registry=registry,
        )

    # The hot path

    def observe(self, route: str, status: int, stages: dict[str, float]) -> None:
        """Note one answered request: seconds by stage, `total` the whole."""
        self._requests.append((route, status, stages))
        if len(self._requests) >= _FLUSH_AT:
            self.flush()

    def batch(self, report: BatchReport) -> None:
        """Note one batch."""
        self._batches.append(report)
        if len(self._batches) >= _FLUSH_AT:
            self.flush()

    def reject(self, reason: str) -> None:
        """Count one refusal by its code."""
        self._rejected.append(reason)

    # Rare events

    def watch_engine(self, queued: Callable[[], int]) -> None:
        """Read the queue's length from the engine whenever someone collects."""
        self.queue_images.set_function(queued)

    def loaded(self, served: ServedModel, seconds: float) -> None:
        """Note a version that is served from now on."""
        self.model_info.labels(*_labels(served)).set(1)
        self.model_load_seconds.labels(served.name).set(seconds)

    def unloaded(self, served: ServedModel) -> None:
        """Forget a version that is served no more."""
        self.model_info.remove(*_labels(served))

    def shadowed(self, served: ServedModel, agreed: int, differed: int) -> None:
        """Count the images that a shadow saw too."""
        for count, agrees in ((agreed, "yes"), (differed, "no")):
            self.shadow_images.labels(served.name, str(served.version), agrees).inc(count)

    def load_failed(self, model: str) -> None:
        """Count a version that could not be loaded."""
        self.load_failures.labels(model).inc()

    # Adding up

    def text(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        self.flush()
        return generate_latest(self.registry)

    def flush(self) -> None:
        """Add up what the hot path appended."""
        with self._flushing:
            self._flush_requests(_drain(self._requests))
            self._flush_batches(_drain(self._batches))

    def answered(self) -> dict[str, dict[str, int]]:
        """Return how many requests were answered, by route and status: what `clearsight_requests_total` holds."""
        self.flush()
        found: dict[str, dict[str, int]] = {}
        for family in self.requests.collect():
            for sample in family.samples:
                route, status = sample.labels["route"], sample.labels["status"]
                found.setdefault(route, {})[status] = int(sample.value)
        return found

    # Between processes

    def take(self) -> dict[str, Any] | None:
        """Hand over what was counted here since the last call, as plain data for `merge`; None when it is nothing."""
        with self._flushing:
            counts, self._counts = self._counts, Tally()
        seconds = {"request": self.request_seconds.take(), "stage": self.stage_seconds.take()}
        if not counts and not any(seconds.values()):
            return None
        return {"counts": [[*key, count] for key, count in counts.items()], **seconds}

    def merge(self, batch: dict[str, Any]) -> None:
        """Add what another process counted."""
        with self._flushing:
            for kind, first, second, count in batch["counts"]:
                self._count(kind, first, second, count)
        self._merge_seconds(batch)

    def _merge_seconds(self, batch: dict[str, Any]) -> None:
        for histogram, name in ((self.request_seconds, "request"), (self.stage_seconds, "stage")):
            for labels, counts, total in batch[name]:
                histogram.merge(tuple(labels), counts, total)

    def _count(self, kind: str, first: str, second: str, count: int) -> None:
        self._counts[kind, first, second] += count
        if kind == "request":
            self.requests.labels(first, second).inc(count)
        else:
            self.rejected.labels(first).inc(count)

    def _flush_requests(self, requests: list[tuple[str, int, dict[str, float]]]) -> None:
        for (route, status), count in Tally((route, status) for route, status, _ in requests).items():
            self._count("request", route, str(status), count)
        for reason, count in Tally(_drain(self._rejected)).items():
            self._count("rejected", reason, "", count)
        totals: dict[str, list[float]] = {}
        stages: dict[str, list[float]] = {}
        for route, _, seconds in requests:
            for stage, value in seconds.items():
                (totals.setdefault(route, []) if stage == "total" else stages.setdefault(stage, [])).append(value)
        for route, values in totals.items():
            self.request_seconds.observe((route,), values)
        for stage, values in stages.items():
            self.stage_seconds.observe((stage,), values)

    def _flush_batches(self, batches: list[BatchReport]) -> None:
        for reason, count in Tally(report.reason for report in batches).items():
            self.dispatches.labels(reason).inc(count)
        for name, count in Tally(report.served.name for report in batches if report.failed).items():
            self.batch_failures.labels(name).inc(count)
        by_model: dict[ServedModel, list[BatchReport]] = {}
        for report in batches:
            if not report.failed:
                by_model.setdefault(report.served, []).append(report)
        for served, reports in by_model.items():
            self._flush_model(served, reports)

    def _flush_model(self, served: ServedModel, reports: list[BatchReport]) -> None:
        self.batch_size.observe((served.name,), [report.images for report in reports])
        labels: Tally[int] = Tally()
        confidences: list[float] = []
        for report in reports:
            if report.probabilities is not None:
                labels.update(report.probabilities.argmax(axis=1).tolist())
                confidences += report.probabilities.max(axis=1).tolist()
        for index, count in labels.items():
            self.predictions.labels(served.name, str(served.version), served.manifest.labels[index]).inc(count)
        self.confidence.observe((served.name,), confidences)


def _labels(served: ServedModel) -> tuple[str, str, str, str, str]:
    return served.name, str(served.version), served.digest, served.variant, served.provider


def _drain(queue: deque[T]) -> list[T]:
    return [queue.popleft() for _ in range(len(queue))]

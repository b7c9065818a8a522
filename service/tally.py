"""Counting in bulk: the request path appends, and a whole list is added to a metric at once."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry


class BulkHistogram(Collector):
    """A Prometheus histogram that takes many observations in one call."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self.name = name
        self._text = text
        self._labels = tuple(labels)
        self.bounds = (*buckets, float("inf"))
        self._series: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, labels: tuple[str, ...], values: Iterable[float]) -> None:
        """Add values to one series."""
        with self._lock:
            counts, total = self._of(labels)
            for value in values:
                counts[bisect.bisect_left(self.bounds, value)] += 1
                total[0] += value

    def merge(self, labels: tuple[str, ...], counts: Sequence[int], total: float) -> None:
        """Add what another process counted with the same buckets."""
        with self._lock:
            mine, mine_total = self._of(labels)
            for index, count in enumerate(counts):
                mine[index] += count
            mine_total[0] += total

    def take(self) -> list[tuple[tuple[str, ...], list[int], float]]:
        """Return every series as (labels, counts per bucket, sum) and start again from nothing."""
        with self._lock:
            series, self._series = self._series, {}
        return [(labels, counts, total[0]) for labels, (counts, total) in series.items()]

    def forget(self, labels: tuple[str, ...]) -> None:
        """Drop one series."""
        with self._lock:
            self._series.pop(labels, None)

    def _of(self, labels: tuple[str, ...]) -> tuple[list[int], list[float]]:
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = ([0] * len(self.bounds), [0.0])
        return found

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Name the metric without reading it."""
        return [HistogramMetricFamily(self.name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Render every series with cumulative buckets."""
        family = HistogramMetricFamily(self.name, self._text, labels=self._labels)
        with self._lock:
            for labels, (counts, total) in self._series.items():
                running, buckets = 0, []
                for bound, count in zip(self.bounds, counts, strict=True):
                    running += count
                    buckets.append((_text(bound), float(running)))
                family.add_metric(labels, buckets, total[0])
        return [family]


def _text(bound: float) -> str:
    return "+Inf" if bound == float("inf") else str(float(bound))

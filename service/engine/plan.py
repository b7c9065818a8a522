"""From a measured latency curve to a batch cap, and from a rate to the latency it will give."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from bundle.errors import BundleError

LEVEL = 0.95
"""Batch sizes with this share of the best throughput count as equally fast."""
QUICK = 0.1
"""Of those, the largest is taken that runs within this share of the objective: fewer hand-overs per image."""


class BatchTooLarge(BundleError):
    """A batch that the device cannot run, most often for want of memory."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds that one batch takes, by batch size, ascending."""

    seconds: dict[int, float]

    def latency(self, n: int) -> float:
        """Return the seconds of a batch of n images: measured, or a straight line between and beyond measured sizes."""
        sizes = list(self.seconds)
        if n in self.seconds:
            return self.seconds[n]
        if len(sizes) == 1 or n < sizes[0]:
            return self.seconds[sizes[0]] * max(1.0, n / sizes[0])
        upper = next((i for i, size in enumerate(sizes) if size > n), len(sizes) - 1)
        low, high = sizes[upper - 1], sizes[upper]
        slope = (self.seconds[high] - self.seconds[low]) / (high - low)
        return max(self.seconds[low] + slope * (n - low), self.seconds[sizes[0]])

    def throughput(self, n: int) -> float:
        """Return images per second of one runner at batch size n."""
        return n / self.latency(n)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is batched: at most `cap` images, `runners` batches at once, of `threads` threads each."""

    curve: Curve
    cap: int
    runners: int
    threads: int
    objective_s: float
    lone_s: float
    """Seconds of a request that finds the engine idle."""
    source: str = "cores"
    """What `runners` and `threads` follow from: `settings`, `tuning` or `cores`."""
    shared: bool = False
    """The runners share one accelerator, which is as fast with one batch as with several, if large."""

    @property
    def servers(self) -> int:
        """Batches that run side by side without slowing each other down."""
        return 1 if self.shared else self.runners

    @property
    def seconds_per_image(self) -> float:
        """Seconds of engine time that one image costs at the cap, over all runners."""
        return self.curve.latency(self.cap) / self.cap / self.servers


def measure_curve(
    run: Callable[[int], object],
    sizes: tuple[int, ...],
    budget_s: float,
    objective_s: float,
    repeats: int = 3,
    ready: Callable[[int], object] | None = None,
) -> Curve:
    """Time `run(n)` for growing n: the best of `repeats` after one warm-up call.

    Stops growing when the budget is used up, when one batch alone would take half the objective, or where a larger one
    raises `BatchTooLarge`. What `ready(n)` takes, before the first run of a size, is not counted.
    """
    seconds: dict[int, float] = {}
    started = time.perf_counter()
    for n in sizes:
        try:
            if ready is not None:
                before = time.perf_counter()
                ready(n)
                started += time.perf_counter() - before
            run(n)
        except BatchTooLarge:
            if not seconds:
                raise
            break
        times = []
        for _ in range(repeats):
            before = time.perf_counter()
            run(n)
            times.append(time.perf_counter() - before)
            if time.perf_counter() - started > budget_s:
                break
        seconds[n] = min(times)
        if time.perf_counter() - started > budget_s or seconds[n] > objective_s / 2:
            break
    return Curve(seconds)


def choose_cap(curve: Curve, objective_s: float, most: int = 0) -> int:
    """Return the batch cap for a p99 objective.

    A request waits at most for the batch in progress and then runs in its own, so two batches must fit into the
    objective. Of the sizes that fit, the fastest counts, and a larger one that is as fast and still quick is preferred
    because it saves hand-overs. `most` sets the cap by hand.
    """
    if most:
        return most
    fitting = [n for n in curve.seconds if 2 * curve.seconds[n] <= objective_s] or [min(curve.seconds)]
    fastest = max(fitting, key=curve.throughput)
    level = LEVEL * curve.throughput(fastest)
    as_fast = [n for n in fitting if curve.throughput(n) >= level and curve.seconds[n] <= QUICK * objective_s]
    return max([fastest, *as_fast])


def predict_latency(plan: Plan, rate: float, quantile: float = 0.99, arrivals: int = 4000) -> float:
    """Return the latency quantile in seconds for Poisson arrivals at `rate` images/s, by simulating the plan.

    Work-conserving service: a free runner takes its share of what is queued, at most the cap. The result grows
    without bound in `arrivals` when the rate is above what the plan can do; that is returned as infinity.
    """
    if rate <= 0:
        return plan.lone_s
    if rate >= 1 / plan.seconds_per_image:
        return float("inf")
    draw = random.Random(0)  # noqa: S311 a simulation, the same one each time
    times, now = [], 0.0
    for _ in range(arrivals):
        now += draw.expovariate(rate)
        times.append(now)
    return _simulate(plan, times)[int(quantile * arrivals) - 1]


def _simulate(plan: Plan, arrivals: list[float]) -> list[float]:
    """Return the sorted latencies of single images that arrive at these times."""
    free = [0.0] * plan.servers
    latencies: list[float] = []
    next_image = 0
    while next_image < len(arrivals):
        runner = min(range(plan.servers), key=free.__getitem__)
        start = max(free[runner], arrivals[next_image])
        queued = 0
        while next_image + queued < len(arrivals) and queued < plan.cap and arrivals[next_image + queued] <= start:
            queued += 1
        take = max(1, -(-queued // plan.servers))
        end = start + plan.curve.latency(take)
        latencies.extend(end - arrivals[next_image + i] for i in range(take))
        free[runner] = end
        next_image += take
    return sorted(latencies)

"""The service and its peers on the same work, taking turns on one machine, under closed-loop and open-loop load."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field

from bench import servers, wrk
from bench.models import Case, cores
from bench.openloop import Generator, Outcome
from bench.spread import Spread

WARMUP_S = 2
HELLO = "Flask hello"
SERVICE = "clearsight"


@dataclass
class Seen:
    """What one server showed at one number of connections, a value for each repeat."""

    per_second: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[dict[str, float]] = field(default_factory=list)

    def rate(self) -> Spread:
        """Return requests a second over the repeats."""
        return Spread.of(self.per_second)

    def cpu_total_ms(self) -> Spread:
        """Return CPU milliseconds a request, all processes together."""
        return Spread.of(sum(kinds.values()) for kinds in self.cpu_ms)

    def cpu_by_process(self) -> dict[str, float]:
        """Return the median CPU milliseconds a request of each kind of process."""
        kinds = {kind for sample in self.cpu_ms for kind in sample}
        return {kind: statistics.median(sample.get(kind, 0.0) for sample in self.cpu_ms) for kind in sorted(kinds)}


Results = dict[tuple[str, int], Seen]


def commands(case: Case) -> dict[str, tuple[list[str], str]]:
    """Return how each contestant is started and where it is asked."""
    workers = cores()
    python = sys.executable
    address = ["--address", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
    return {
        SERVICE: ([python, "-m", "service", "serve"], "/predict"),
        "naive Flask": (servers.gunicorn("bench.peers.naive:create_app()", workers, 4), "/predict"),
        "mosec": ([python, "-m", "bench.peers.mosec_app", *address], "/inference"),
        HELLO: (servers.gunicorn("bench.hello:app", workers, 4), "/hello"),
    }


def closed_loop(
    case: Case, connections: list[int], repeats: int, seconds: float, only: list[str] | None = None
) -> Results:
    """Load every contestant in turn, repeat by repeat, the order reversed each time."""
    results: Results = defaultdict(Seen)
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(servers.running(name, command, path, case.environment()))
            for name, (command, path) in commands(case).items()
            if only is None or name in only
        ]
        for server in started:
            wrk.measure(server.url, _body(server, case), 8, WARMUP_S)
        for repeat in range(repeats):
            for server in started if repeat % 2 == 0 else reversed(started):
                for count in connections:
                    _sample(results[server.name, count], server, case, count, seconds)
    return results


def open_loop(case: Case, rates: list[float], seconds: float) -> list[Outcome]:
    """Offer the service a constant rate, one rate after the other."""
    command, path = commands(case)[SERVICE]
    with servers.running(SERVICE, command, path, case.environment()) as server:
        wrk.measure(server.url, case.image, 8, WARMUP_S)
        return [Generator(server.url, case.image).run(rate, seconds) for rate in rates]


def _sample(seen: Seen, server: servers.Server, case: Case, connections: int, seconds: float) -> None:
    before = server.cpu_seconds()
    sample = wrk.measure(server.url, _body(server, case), connections, seconds)
    after = server.cpu_seconds()
    requests = sample.per_second * seconds
    seen.per_second.append(sample.per_second)
    seen.p50_ms.append(sample.p50_ms)
    seen.p99_ms.append(sample.p99_ms)
    seen.cpu_ms.append({kind: 1e3 * (after[kind] - before.get(kind, 0.0)) / requests for kind in after})


def _body(server: servers.Server, case: Case) -> wrk.Input | None:
    return None if server.name == HELLO else case.image

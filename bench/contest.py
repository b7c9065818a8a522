"""The service and its peers on the same work, taking turns on one machine, under closed-loop and open-loop load."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import servers, wrk
from bench.limits import Limit
from bench.models import Case, cores
from bench.openloop import Generator, Outcome
from bench.spread import Spread

WARMUP_S = 1
ANSWERS_EACH = 12
"""What a connection should get while it is measured. What is under way when the time is up is not counted."""
LIMIT_S = 4
"""For onnxruntime alone, which works through whole batches to the end."""
IDLE_SHARE, IDLE_LOOK_S, IDLE_LIMIT_S = 0.1, 0.2, 10.0
HELLO = "Flask hello"
SERVICE = "clearsight"
NAIVE = "naive Flask"
NAIVE_PILLOW = "naive Flask, plain Pillow"
STANDIN = str(Path(__file__).with_name("standin"))


@dataclass
class Seen:
    """What one server showed at one number of connections, a value for each repeat."""

    per_second: list[float] = field(default_factory=list)
    """Successful answers only."""
    failed: list[float] = field(default_factory=list)
    """Share of the requests that were refused or lost."""
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


@dataclass(frozen=True)
class Contestant:
    """How a server is started, where it is asked, and what its environment adds."""

    command: list[str]
    path: str
    environment: dict[str, str] = field(default_factory=dict)


def contestants(case: Case) -> dict[str, Contestant]:
    """List who competes in a case, by name; fp32 is there to compare int8 with, so fewer do."""
    workers = cores()
    python = sys.executable
    serve = [python, "-m", "service", "serve"]
    naive = servers.gunicorn("bench.peers.naive:create_app()", workers, 4)
    address = ["--address", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
    all_of_them = {
        SERVICE: Contestant(serve, "/predict"),
        "clearsight, one worker": Contestant(serve, "/predict", {"CLEARSIGHT_WORKERS": "1"}),
        NAIVE: Contestant(naive, "/predict"),
        NAIVE_PILLOW: Contestant(naive, "/predict", {"BENCH_PLAIN": "1"}),
        "mosec": Contestant([python, "-m", "bench.peers.mosec_app", *address], "/inference"),
        HELLO: Contestant(servers.gunicorn("bench.hello:app", workers, 4), "/hello"),
    }
    int8_only = {"clearsight, one worker", NAIVE_PILLOW}
    left_out = (set() if case.variant == "int8" else int8_only) | (set() if case.photograph else {NAIVE_PILLOW})
    return {name: one for name, one in all_of_them.items() if name not in left_out}


def scaling() -> dict[str, Contestant]:
    """List one worker and two, of the service before a stand-in accelerator and of the hello.

    The hello also with one thread in each worker: four share one interpreter lock, which slows the single worker most.
    """
    paths = os.pathsep.join([STANDIN, *filter(None, [os.environ.get("PYTHONPATH")])])
    serve = [sys.executable, "-m", "service", "serve"]
    found = {}
    for count in (1, 2):
        environment = {"CLEARSIGHT_WORKERS": str(count), "CLEARSIGHT_RUNNERS": "1", "PYTHONPATH": paths}
        found[f"stand-in, {count}"] = Contestant(serve, "/predict", environment)
        found[f"{HELLO}, {count}"] = Contestant(servers.gunicorn("bench.hello:app", count, 4), "/hello")
        found[f"{HELLO} with one thread, {count}"] = Contestant(servers.gunicorn("bench.hello:app", count, 1), "/hello")
    return found


def window(connections: int, per_second: float, least: float) -> int:
    """Return the seconds in which that many connections get `ANSWERS_EACH` answers at such a rate."""
    return math.ceil(max(least, ANSWERS_EACH * connections / per_second))


def closed_loop(
    case: Case, field: dict[str, Contestant], seconds: dict[int, int], repeats: int, limit: Limit | None = None
) -> tuple[Results, list[servers.Server]]:
    """Load every contestant in turn, repeat by repeat, the order reversed each time; return also who took part.

    `seconds` says by number of connections how long each load lasts; the limit takes its turn among them.
    """
    results: Results = defaultdict(Seen)

    def measure(server: servers.Server) -> None:
        for count in seconds:
            _sample(results[server.name, count], server, case, count, seconds[count])

    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(servers.running(name, one.command, one.path, case.environment() | one.environment))
            for name, one in field.items()
        ]
        for server in started:
            wrk.measure(server.url, _body(server, case), 8, WARMUP_S)
            _settle(server)
        turns: list[Callable[[], None]] = [partial(measure, server) for server in started]
        if limit:
            turns.insert(1, partial(limit.turn, LIMIT_S))  # beside the service, whichever way round
        for repeat in range(repeats):
            for turn in turns if repeat % 2 == 0 else reversed(turns):
                turn()
        for server in started:
            server.memory_mib = server.resident_mib()
    return results, started


def open_loop(case: Case, rates: list[float], seconds: float) -> list[Outcome]:
    """Offer the service a constant rate, one rate after the other."""
    ours = contestants(case)[SERVICE]
    with servers.running(SERVICE, ours.command, ours.path, case.environment()) as server:
        wrk.measure(server.url, case.image, 8, WARMUP_S)
        return [Generator(server.url, case.image).run(rate, seconds) for rate in rates]


def _settle(server: servers.Server) -> None:
    """Wait until a server is done with what nobody waits for any more: who comes next should not have to share."""
    until = time.monotonic() + IDLE_LIMIT_S
    before = sum(server.cpu_seconds().values())
    while time.monotonic() < until:
        time.sleep(IDLE_LOOK_S)
        after = sum(server.cpu_seconds().values())
        if after - before < IDLE_SHARE * IDLE_LOOK_S:
            return
        before = after


def _sample(seen: Seen, server: servers.Server, case: Case, connections: int, seconds: float) -> None:
    before = server.cpu_seconds()
    sample = wrk.measure(server.url, _body(server, case), connections, seconds)
    after = server.cpu_seconds()
    _settle(server)
    requests = sample.per_second * seconds
    seen.per_second.append(sample.per_second)
    seen.failed.append(sample.failed)
    seen.p50_ms.append(sample.p50_ms)
    seen.p99_ms.append(sample.p99_ms)
    seen.cpu_ms.append({kind: 1e3 * (after[kind] - before.get(kind, 0.0)) / requests for kind in after})


def _body(server: servers.Server, case: Case) -> wrk.Input | None:
    return None if server.name.startswith(HELLO) else case.image

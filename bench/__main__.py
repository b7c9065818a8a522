"""`python -m bench`: the limits of this machine, the service and its peers, and how close they come.

`--quick` is a look of two minutes; the whole takes about forty minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import onnxruntime as ort

from bundle.extras import extra
from bundle.preprocess import preprocess

with extra("bench"):
    from bench import contest, limits, wrk
    from bench.inputs import photograph
    from bench.models import BUILT, Case, build, cases, cores, imagenet_preprocessing
    from bench.servers import Server
    from bench.spread import Spread, table

LOADS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.5)
"""Shares of the closed-loop peak that the open-loop run offers."""
SCALING_RUNS = 3
"""Runs of a second in each repeat: gunicorn spreads 32 new connections over two workers differently every time."""


def main() -> None:
    """Measure what the arguments ask for; print Markdown tables and keep them, and the numbers as JSON."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before it was done"))  # and its servers with it
    wrk.require()
    build()
    path: Path = arguments.json or BUILT / "last.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".md").open("w") as tables, contextlib.redirect_stdout(_Both(sys.stdout, tables)):
        _measure(arguments, path)
        print(f"the numbers: {path}")


class _Both(io.TextIOBase):
    """Write to the terminal and to a file, each line at once."""

    def __init__(self, *targets: TextIO) -> None:
        self.targets = targets

    def write(self, text: str) -> int:
        """Write to both."""
        for target in self.targets:
            target.write(text)
            target.flush()
        return len(text)


def _measure(arguments: argparse.Namespace, path: Path) -> None:
    """Run part after part; what was measured is kept even if a later part fails."""
    if arguments.quick:
        arguments.cases, arguments.connections, arguments.repeats, arguments.seconds = ["resnet20"], [8, 32], 3, 1
        arguments.open_loop_seconds, arguments.scaling = 0, False
    record: dict[str, object] = {"machine": _machine()}
    print(f"{_machine()}; {arguments.repeats} repeats: median (lowest to highest)\n")
    record["preprocessing"] = _preprocessing(arguments)
    if arguments.scaling:
        record["scaling"] = _scaling(cases()["resnet20"], arguments)
    for name in arguments.cases:
        record[name] = _case(cases()[name], arguments)
        path.write_text(json.dumps(record, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", choices=[*cases()], default=[*cases()])
    add("--repeats", type=int, default=5, help="repeats of every measurement (default: 5)")
    lasts = "shortest closed-loop run (default: 3); each goes on until a connection has had about 12 answers"
    add("--seconds", type=int, default=3, help=lasts)
    add("--connections", nargs="+", type=int, default=[1, 8, 32])
    add("--only", nargs="+", help="contestants to run (default: all)")
    add("--open-loop-seconds", type=int, default=4, help="length of one open-loop run; 0 for none (default: 4)")
    add("--quick", action="store_true", help="the small model at 8 and 32 connections, a second each")
    add("--no-scaling", dest="scaling", action="store_false", help="leave out one worker against two")
    add("--json", type=Path, help="where the numbers go (default: build/bench/last.json)")
    return parser.parse_args()


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), model)
    return f"{model}, {cores()} cores; Python {platform.python_version()}, onnxruntime {ort.__version__}"


def _preprocessing(arguments: argparse.Namespace) -> dict[str, dict[str, tuple[float, ...]]]:
    seen, rows = {}, []
    for image in (photograph(500, 375), photograph(1600, 1067)):
        ways = limits.preprocessing_alone(image, imagenet_preprocessing(), arguments.repeats, 0.5)
        share = ways["bundle.preprocess"].per(ways["plain Pillow"]).show(2)
        rows.append([image.name, *[way.show(2) for way in ways.values()], share])
        seen[image.name] = {way: spread.values for way, spread in ways.items()}
    print("Preprocessing to 224x224, milliseconds on one thread\n")
    print(table(["image", "bundle.preprocess", "plain Pillow", "decoding only", "ours / plain"], rows))
    return seen


def _case(case: Case, arguments: argparse.Namespace) -> dict[str, object]:
    print(f"## {case.name}, {case.image.name} ({len(case.image.body)} bytes)\n")
    recipe = case.bundle().manifest.preprocessing
    row = preprocess(case.image.body, recipe).pixels
    plans = limits.plans(cores(), case.batches)
    graph, form = limits.fastest_form(case.graph(), row, max(case.batches), arguments.repeats)
    print(f"onnxruntime alone runs {form}\n")
    alone = {plan: limits.onnxruntime_alone(graph, row, plan, arguments.repeats, 0.4) for plan in plans}
    _show_alone(alone)
    best = max(alone, key=lambda plan: alone[plan].per_second.median)
    field = {n: one for n, one in contest.contestants(case).items() if not arguments.only or n in arguments.only}
    expected = alone[best].per_second.median
    seconds = {count: contest.window(count, expected, arguments.seconds) for count in arguments.connections}
    lone = max((p for p in alone if (p.sessions, p.batch) == (1, 1)), key=lambda plan: alone[plan].per_second.median)
    parts = [limits.Alone(graph, row, plan) for plan in (best, lone)]
    limit = limits.Limit(*parts, lambda: preprocess(case.image.body, recipe), cores())
    results, servers = contest.closed_loop(case, field, seconds, arguments.repeats, limit)
    _show_closed_loop(results, limit)
    _show_lone(results, limit.lone_ms)
    _show_processes(servers)
    record: dict[str, object] = {
        "decode_ms": limit.decode_ms.values,
        "form": form,
        "limit": {"plan": asdict(best), "onnxruntime": limit.onnxruntime.per_second.values},
        "least_ms": limit.lone_ms.values,
        "seconds": seconds,
        "alone": [asdict(plan) | {"per_second": rate.per_second.values} for plan, rate in alone.items()],
        "start_s": {server.name: server.start_s for server in servers},
        "memory_mib": {server.name: server.memory_mib for server in servers},
        "closed_loop": [{"server": s, "connections": c} | asdict(seen) for (s, c), seen in results.items()],
    }
    if arguments.open_loop_seconds and case.variant == "int8" and any(name == contest.SERVICE for name, _ in results):
        record["open_loop"] = _open_loop(case, results, arguments.open_loop_seconds)
    return record


def _show_alone(alone: dict[limits.Plan, limits.Rate]) -> None:
    rows = [
        [f"{plan.sessions} x {plan.threads}", str(plan.batch), rate.per_second.show(0), rate.cpu_ms.show(2)]
        for plan, rate in alone.items()
    ]
    print(table(["onnxruntime alone: sessions x threads", "batch", "images/s", "CPU ms/image"], rows))


def _show_closed_loop(results: contest.Results, limit: limits.Limit) -> None:
    failed = any(share for seen in results.values() for share in seen.failed)
    hellos = [seen.rate() for (name, _), seen in results.items() if name == contest.HELLO]
    http = max(hellos, key=lambda rate: rate.median) if hellos else None
    most = [limit.per_second(), *([limit.per_second(http)] if http else [])]
    print(f"preprocessing {limit.decode_ms.show(3)} ms a thread; ", end="")
    print(f"onnxruntime at best {limit.onnxruntime.per_second.show(0)} images/s")
    print(f"limit {most[0].show(0)}/s" + (f"; with HTTP {most[1].show(0)}/s" if http else "") + "\n")
    rows = []
    for (name, connections), seen in results.items():
        ours = results.get((contest.SERVICE, connections))
        ratio = ours.rate().per(seen.rate()).show(2) if ours and name != contest.SERVICE else ""
        shares = ["" if name == contest.HELLO else seen.rate().per(rate).show(2) for rate in most]
        p50, p99 = Spread.of(seen.p50_ms).show(2), Spread.of(seen.p99_ms).show(2)
        lost = [f"{max(seen.failed):.1%}"] if failed else []
        rows.append([f"{name}, {connections}", seen.rate().show(0), p50, p99, *shares, ratio, *lost])
    head = ["server, connections", "requests/s", "p50 ms", "p99 ms", "/ limit", *(["/ with HTTP"] if http else [])]
    print(table([*head, "ours / it", *(["most not answered"] if failed else [])], rows))
    _show_cpu(results, limit.onnxruntime, limit.decode_ms)


def _show_cpu(results: contest.Results, best: limits.Rate, decode_ms: Spread) -> None:
    rows = [["decode, resize, crop (alone)", decode_ms.show(3)], ["onnxruntime (alone)", best.cpu_ms.show(3)]]
    most = max(connections for _, connections in results)
    for (name, connections), seen in results.items():
        if connections == most:
            parts = ", ".join(f"{kind} {spent:.3f}" for kind, spent in seen.cpu_by_process().items())
            rows.append([f"{name} at {most}: {parts}", seen.cpu_total_ms().show(3)])
    print(table(["CPU milliseconds a request", "all processes"], rows))


def _show_lone(results: contest.Results, least: Spread) -> None:
    """Say what a lone request takes beside decoding and the best session for one image."""
    if (contest.SERVICE, 1) not in results or (contest.NAIVE, 1) not in results:
        return
    ours = Spread.of(results[contest.SERVICE, 1].p50_ms)
    more = Spread.of(a - b for a, b in zip(ours.values, results[contest.NAIVE, 1].p50_ms, strict=True))
    print(
        f"a lone request: {ours.show(2)} ms; decoding and the best session for one image {least.show(2)} ms, ", end=""
    )
    print(f"ratio {ours.per(least).show(2)}; more than naive Flask: {more.show(2)} ms\n")


def _show_processes(servers: list[Server]) -> None:
    rows = [
        [server.name, f"{server.start_s:.1f}", ", ".join(f"{n} {mib:.0f}" for n, mib in server.memory_mib.items())]
        for server in servers
    ]
    print(table(["server", "cold start, s", "resident MiB"], rows))


def _scaling(case: Case, arguments: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """Compare what the second worker brings the service, before a stand-in accelerator, and a hello."""
    results, _ = contest.closed_loop(case, contest.scaling(), {32: 1}, SCALING_RUNS * arguments.repeats)
    rate = {name: seen.rate() for (name, _), seen in results.items()}
    kinds = list(dict.fromkeys(name.rpartition(",")[0] for name in rate))
    gain = {kind: rate[f"{kind}, 2"].per(rate[f"{kind}, 1"]) for kind in kinds}
    print("## Two workers against one, 32 connections\n")
    rows = [
        [
            kind,
            *[rate[f"{kind}, {count}"].show(0) for count in (1, 2)],
            gain[kind].show(2),
            "" if kind == "stand-in" else gain["stand-in"].per(gain[kind]).show(2),
        ]
        for kind in kinds
    ]
    print(table(["server", "one worker, requests/s", "two, requests/s", "gain", "the service's gain / it"], rows))
    return {name: spread.values for name, spread in rate.items()}


def _open_loop(case: Case, results: contest.Results, seconds: int) -> list[dict[str, object]]:
    peak = max(seen.rate().median for (name, _), seen in results.items() if name == contest.SERVICE)
    outcomes = contest.open_loop(case, [peak * load for load in LOADS], seconds)
    rows, record = [], []
    for load, outcome in zip(LOADS, outcomes, strict=True):
        refused = sum(count for status, count in outcome.statuses.items() if status != 200)
        quantiles = [outcome.quantile_ms(share) for share in (0.5, 0.99)]
        counts = [f"{outcome.answered_per_second:.0f}", str(refused), str(outcome.unanswered)]
        rows.append([f"{outcome.offered_per_second:.0f} ({load:.0%})", *counts, *[f"{q:.1f}" for q in quantiles]])
        record.append({"offered": outcome.offered_per_second, "statuses": dict(outcome.statuses), "ms": quantiles})
    print("Open loop: constant arrivals, latency of successful answers from the intended departure\n")
    print(table(["offered/s (of peak)", "answered/s", "refused", "lost", "p50 ms", "p99 ms"], rows))
    return record


if __name__ == "__main__":
    main()

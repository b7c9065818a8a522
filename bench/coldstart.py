"""`python -m bench.coldstart`: from the start of a service to ready and to the first answer, and its memory.

Every start is a new process on a warm page cache. The resident size (RSS) counts pages that processes share in each of
them; the proportional one (PSS) divides them, so its sum is what the service takes.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from bench.models import BUILT, Case, build, cases, cores
from bench.servers import ROOT, free_port
from bench.spread import Spread, table

LIMIT_S = 120.0
LOOK_S = 0.005
Memory = dict[str, tuple[float, float]]
"""By process: resident and proportional size in MiB."""


def main() -> None:
    """Print Markdown tables for the cases, each with the engine inside the one worker and in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=[*cases()], default=["resnet20", "resnet50-int8", "resnet50"])
    parser.add_argument("--repeats", type=int, default=5, help="starts of each (default: 5)")
    arguments = parser.parse_args()
    if any(cases()[name].store == BUILT for name in arguments.cases):
        build()
    print(f"{cores()} cores; {arguments.repeats} starts each: median (lowest to highest)\n")
    times: list[list[str]] = []
    sizes: list[list[str]] = []
    for name in arguments.cases:
        for workers in (1, 2):
            starts = [start(cases()[name], workers) for _ in range(arguments.repeats)]
            label = f"{cases()[name].name}, {workers} worker{'s' * (workers > 1)}"
            ready, first = Spread.of(s[0] for s in starts), Spread.of(s[1] for s in starts)
            times.append([label, ready.show(2), first.show(2)])
            sizes += [[label, *row] for row in memory_rows([memory for _, _, memory in starts])]
    print(table(["", "ready, s", "first answer, s"], times))
    print(table(["", "process", "RSS, MiB", "PSS, MiB"], sizes))


def memory_rows(found: list[Memory]) -> list[list[str]]:
    """Return one row per process, and their sum."""
    rows = [
        [process, *(Spread.of(memory[process][column] for memory in found).show(0) for column in (0, 1))]
        for process in found[0]
    ]
    total = Spread.of(sum(pss for _, pss in memory.values()) for memory in found)
    return [*rows, ["together", "", total.show(0)]]


def start(case: Case, workers: int) -> tuple[float, float, Memory]:
    """Start a service once; return seconds until ready and until the first answer, and the memory after it."""
    port = free_port()
    settings = {key: value.replace("{port}", str(port)) for key, value in case.environment().items()}
    settings |= {"CLEARSIGHT_WORKERS": str(workers), "CLEARSIGHT_DEVICE": "cpu"}
    began = time.perf_counter()
    with serving(settings) as process:
        until_200(port, process, "GET", "/readyz")
        ready_s = time.perf_counter() - began
        until_200(port, process, "POST", "/predict", case.image.body)
        first_s = time.perf_counter() - began
        return ready_s, first_s, memory_of(process)


@contextmanager
def serving(settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m service serve` until the block ends."""
    command = [sys.executable, "-m", "service", "serve"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def until_200(port: int, process: subprocess.Popen[bytes], method: str, path: str, body: bytes | None = None) -> None:
    """Ask until the answer is 200; stop the program when the service ended or takes longer than the limit."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(LOOK_S)
    sys.exit(f"the service did not answer {path}")


def memory_of(process: subprocess.Popen[bytes]) -> Memory:
    """Return the memory of every process of the service, the oldest first."""
    parent = psutil.Process(process.pid)
    members = sorted([parent, *parent.children(recursive=True)], key=lambda member: member.create_time())
    found: Memory = {}
    masters = [member.pid for member in members if member.ppid() == parent.pid and "gunicorn" in _words(member)]
    for member in members:
        full = member.memory_full_info()
        kind = "engine" if "service.engine" in _words(member) else "gunicorn" if member.pid in masters else "worker"
        kind = "parent" if member.pid == parent.pid else kind
        number = sum(name.startswith(kind) for name in found) + 1
        found[f"{kind} {number}" if kind == "worker" else kind] = (full.rss / 2**20, full.pss / 2**20)
    return found


def _words(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


if __name__ == "__main__":
    main()

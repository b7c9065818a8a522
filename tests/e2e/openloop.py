"""An open loop: requests leave at their times whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from tests.e2e.traffic import Sample, check


@dataclass
class Load:
    """What an open loop saw."""

    seconds: float
    """How long requests were offered."""
    in_time: int = 0
    """Good answers while requests were offered."""
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    """Of answers with status 200, from the moment the request was due."""
    held_s: list[float] = field(default_factory=list)
    """The same from the moment the request was sent, so without what a starved client adds."""
    retry_after_s: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unanswered: int = 0
    slowest_probe_s: float = 0.0

    @property
    def goodput(self) -> float:
        """Good answers a second, while requests were offered."""
        return self.in_time / self.seconds

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies in seconds."""
        return float(np.quantile(self.latencies_s, share))


Judge = Callable[[Sample, bytes], tuple[str, str]]
"""Returns the version that answered and what is wrong with its answer."""


def offer(
    port: int, samples: list[Sample], rate: float, seconds: float, connections: int = 128, judge: Judge = check
) -> Load:
    """Offer Poisson arrivals at a rate for some seconds, on at most so many connections, probing health beside it."""
    return asyncio.run(_Offer(port, samples, connections, judge, Load(seconds)).run(rate))


class _Offer:
    """One open loop in progress."""

    def __init__(self, port: int, samples: list[Sample], connections: int, judge: Judge, load: Load) -> None:
        self.port = port
        self.samples = samples
        self.judge = judge
        self.load = load
        self.began = time.monotonic()
        self.pool: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None] = asyncio.Queue()
        for _ in range(connections):
            self.pool.put_nowait(None)

    async def run(self, rate: float) -> Load:
        load, draw = self.load, random.Random(3)
        due, tasks = 0.0, []
        probes = asyncio.create_task(_probe(self.port, load))
        while due < load.seconds:
            await asyncio.sleep(max(0.0, self.began + due - time.monotonic()))
            sample = self.samples[len(tasks) % len(self.samples)]
            tasks.append(asyncio.create_task(self.request(sample, self.began + due)))
            due += draw.expovariate(rate)
        done, pending = await asyncio.wait(tasks, timeout=30)
        load.unanswered = len(pending) + sum(1 for task in done if task.exception())
        probes.cancel()
        while not self.pool.empty():
            if connection := self.pool.get_nowait():
                connection[1].close()
        return load

    async def request(self, sample: Sample, due: float) -> None:
        load = self.load
        connection = await self.pool.get() or await asyncio.open_connection("127.0.0.1", self.port)
        sent = time.monotonic()
        try:
            status, headers, body = await _post(*connection, sample.data)
        except (OSError, EOFError, asyncio.CancelledError):
            connection[1].close()
            self.pool.put_nowait(None)
            raise
        now = time.monotonic()
        load.statuses[status] += 1
        if status == 200:
            load.latencies_s.append(now - due)
            load.held_s.append(now - sent)
            load.in_time += now - self.began <= load.seconds
            if fault := self.judge(sample, body)[1]:
                load.wrong.append(fault)
        elif b"retry-after" in headers:
            load.retry_after_s.append(int(headers[b"retry-after"]))
        if headers.get(b"connection") == b"close":
            connection[1].close()
            connection = None
        self.pool.put_nowait(connection)


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
) -> tuple[int, dict[bytes, bytes], bytes]:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(data)
    writer.write(head + data)
    raw = await reader.readuntil(b"\r\n\r\n")
    lines = raw.split(b"\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


async def _probe(port: int, load: Load) -> None:
    """Ask for health four times a second and keep the slowest answer."""
    while True:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):  # the last probe is cancelled wherever it is
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await reader.read()
        load.slowest_probe_s = max(load.slowest_probe_s, time.monotonic() - began)
        await asyncio.sleep(0.25)

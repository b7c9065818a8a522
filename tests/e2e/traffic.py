"""Many clients, many different images, and a reference for each: a swapped or wrong row is seen."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from bundle.preprocess import preprocess
from bundle.store import Store

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sample:
    """An encoded image and, by version, the probabilities that it must get."""

    data: bytes
    expected: dict[str, list[float]]


def make_samples(store: Path, name: str = "colors", count: int = 512) -> list[Sample]:
    """Make different images; their references come from onnxruntime and `bundle.preprocess`, without the service."""
    draw = np.random.default_rng(7)
    images = [_noisy(draw) for _ in range(count)]
    answers: list[dict[str, list[float]]] = [{} for _ in images]
    for version in Store(store).versions(name):
        bundle = Store(store).open(name, version)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        model = bundle.read(bundle.manifest.variants["fp32"].file)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        rows = np.stack([preprocess(image, bundle.manifest.preprocessing).pixels for image in images])
        for answer, row in zip(answers, session.run(["probabilities"], {"image": rows})[0], strict=True):
            answer[str(version)] = row.tolist()
    return [Sample(image, answer) for image, answer in zip(images, answers, strict=True)]


def _noisy(draw: np.random.Generator) -> bytes:
    base = draw.integers(20, 235, 3)
    pixels = np.clip(base + draw.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Report:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    """By status, or by the name of the connection's error."""
    versions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Answers of other statuses than 200, by their bodies without the request id."""
    seconds: list[float] = field(default_factory=list)
    """Latencies of answers with status 200."""
    longest_s: float = 0.0
    trail: list[tuple[int, float, float]] = field(default_factory=list)
    """Of each answer: the port of the client's connection, when that was opened, when it came (monotonic seconds)."""

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return sum(count for status, count in self.statuses.items() if status.isdecimal())

    def answered_on_connections_since(self, moment: float) -> int:
        """Count the answers on connections that were opened after a moment."""
        return sum(1 for _, opened_at, _ in self.trail if opened_at >= moment)

    def p99(self) -> float:
        """99th percentile of the latency of good answers, in seconds."""
        return float(np.percentile(self.seconds, 99))


class Traffic:
    """Closed-loop clients that go on whatever happens to the service."""

    def __init__(self, port: int, samples: list[Sample], clients: int = 16) -> None:
        self.port = port
        self.samples = samples
        self.clients = clients
        self.report = Report()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index, clients)) for index in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=40)
        assert not any(thread.is_alive() for thread in self._threads), "a client is still waiting for its answer"

    def good(self) -> int:
        """Answers with status 200 so far."""
        return self.report.statuses["200"]

    def after(self, more: int, within_s: float = 30.0) -> float:
        """Wait for so many more good answers; return the seconds that it took."""
        began, goal = time.monotonic(), self.good() + more
        while self.good() < goal:
            assert time.monotonic() - began < within_s, f"{dict(self.report.statuses)}"
            self._stop.wait(0.02)
        return time.monotonic() - began

    def until(self, met: Callable[[], bool], within_s: float = 30.0) -> None:
        """Let the clients go on until a condition is met."""
        end = time.monotonic() + within_s
        while not met():
            assert time.monotonic() < end, f"{dict(self.report.statuses)} {dict(self.report.versions)}"
            self._stop.wait(0.05)

    def _run(self, index: int, step: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        at, opened_at = index, 0.0
        while not self._stop.is_set():
            sample = self.samples[at % len(self.samples)]
            at += step
            began = time.monotonic()
            try:
                if connection.sock is None:
                    opened_at = time.monotonic()
                    connection.connect()
                port = connection.sock.getsockname()[1]
                connection.request("POST", "/predict", sample.data, {"Content-Type": "image/png"})
                answer = connection.getresponse()
                self._note(sample, answer.status, answer.read(), time.monotonic() - began)
                self.report.trail.append((port, opened_at, time.monotonic()))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                with self._lock:
                    self.report.statuses[type(error).__name__] += 1
                    self.report.longest_s = max(self.report.longest_s, time.monotonic() - began)
                self._stop.wait(0.02)
        connection.close()

    def _note(self, sample: Sample, status: int, body: bytes, seconds: float) -> None:
        version, fault, refusal = "", "", ""
        if status == 200:
            version, fault = check(sample, body)
        else:
            refusal = _refusal(body)
        with self._lock:
            report = self.report
            report.statuses[str(status)] += 1
            report.longest_s = max(report.longest_s, seconds)
            if status == 200:
                report.versions[version] += 1
                report.seconds.append(seconds)
            else:
                report.refused[refusal] += 1
            if fault:
                report.wrong.append(fault)
        if status != 200:
            self._stop.wait(0.02)


def _refusal(body: bytes) -> str:
    try:
        problem = json.loads(body)
        return f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return repr(body[:200])


def check(sample: Sample, body: bytes) -> tuple[str, str]:
    """Return the version that answered, and what is wrong with its answer (nothing where it is right)."""
    answer = json.loads(body)
    version = answer["model"]["version"]
    expected = sample.expected.get(version)
    if expected is None:
        return version, f"version {version} is unknown"
    got = {p["index"]: p["probability"] for p in answer["predictions"]}
    worst = max(abs(got[index] - value) for index, value in enumerate(expected))
    return version, "" if worst <= TOLERANCE else f"a probability differs by {worst:.3g}"

"""What the parts can do alone, in this process, with nothing around them: the limits that serving is judged by."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from bench.inputs import Input
from bench.plain import plain
from bench.spread import Spread
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess


@dataclass(frozen=True)
class Plan:
    """How onnxruntime is run: sessions side by side, threads in each, images in a batch."""

    sessions: int
    threads: int
    batch: int


@dataclass(frozen=True)
class Rate:
    """Images a second and CPU milliseconds an image, over the repeats."""

    per_second: Spread
    cpu_ms: Spread


def plans(cores: int, batches: tuple[int, ...]) -> list[Plan]:
    """List one session on every core and one session for each core, at every batch size."""
    ways = [(1, 1), (1, cores), (cores, 1)] if cores > 1 else [(1, 1)]
    return [Plan(sessions, threads, batch) for sessions, threads in ways for batch in batches]


def onnxruntime_alone(graph: bytes, row: npt.NDArray[np.uint8], plan: Plan, repeats: int, seconds: float) -> Rate:
    """Run a sealed graph on copies of one uint8 [height, width, channels] image."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    sessions = [ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]) for _ in range(plan.sessions)]
    rows = np.ascontiguousarray(np.broadcast_to(row, (plan.batch, *row.shape)))
    calls = [lambda s=session: s.run(["probabilities"], {"image": rows}) for session in sessions]
    for call in calls:
        call()
    seen = [_rate(calls, seconds) for _ in range(repeats)]
    return Rate(Spread.of(rate * plan.batch for rate, _ in seen), Spread.of(1e3 * cpu / plan.batch for _, cpu in seen))


def preprocessing_alone(image: Input, recipe: Preprocessing, repeats: int, seconds: float) -> dict[str, Spread]:
    """Time one thread's milliseconds per image: ours, the plain Pillow pipeline, and decoding only, interleaved."""
    ways: dict[str, Callable[[], object]] = {
        "bundle.preprocess": lambda: preprocess(image.body, recipe),
        "plain Pillow": lambda: plain(image.body),
        "decode only": lambda: Image.open(io.BytesIO(image.body)).convert("RGB"),
    }
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seen[name].append(1e3 / _rate([way], seconds)[0])
    return {name: Spread.of(values) for name, values in seen.items()}


def one_way(call: Callable[[], object], repeats: int, seconds: float) -> Spread:
    """Time one thread's milliseconds per call."""
    return Spread.of(1e3 / _rate([call], seconds)[0] for _ in range(repeats))


def _rate(calls: list[Callable[[], object]], seconds: float) -> tuple[float, float]:
    """Repeat each call in a thread of its own; return calls a second and CPU seconds a call."""
    counts = [0] * len(calls)
    start, cpu = time.perf_counter(), time.process_time()

    def repeat(index: int) -> None:
        while time.perf_counter() - start < seconds or counts[index] < 2:
            calls[index]()
            counts[index] += 1

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(1, len(calls))]
    for thread in threads:
        thread.start()
    repeat(0)
    for thread in threads:
        thread.join()
    elapsed, spent = time.perf_counter() - start, time.process_time() - cpu
    return sum(counts) / elapsed, spent / sum(counts)

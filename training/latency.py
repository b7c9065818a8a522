"""How long a batch takes, by batch size, for graphs measured side by side."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from bundle import session

MOST_ROUNDS, FEWEST_ROUNDS = 30, 5
SECONDS_A_SIZE = 1.5


def measure_latency(
    graphs: Mapping[str, tuple[bytes, npt.NDArray[np.uint8]]], sizes: tuple[int, ...]
) -> dict[str, dict[int, list[float]]]:
    """Return seconds on the CPU by graph and batch size, round by round, the graphs taking turns.

    Each graph comes with an image for it, uint8 [height, width, channels]. After one batch to warm up, each size runs
    for 1.5 seconds: between 5 and 30 rounds.
    """
    opened = {name: session.open_session(raw, name) for name, (raw, _) in graphs.items()}
    found: dict[str, dict[int, list[float]]] = {name: {} for name in graphs}
    for size in sizes:
        rows = {name: np.repeat(row[None], size, axis=0) for name, (_, row) in graphs.items()}
        for name, seconds in _rounds(opened, rows).items():
            found[name][size] = seconds
    return found


def machine() -> str:
    """Describe where a latency was measured: processor, threads, onnxruntime."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads, onnxruntime {ort.__version__}"


def _rounds(opened: Mapping[str, session.Session], rows: Mapping[str, npt.NDArray[np.uint8]]) -> dict[str, list[float]]:
    for name, graph in opened.items():
        session.run(graph, rows[name])
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    started = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - started > SECONDS_A_SIZE:
            break
        for name, graph in opened.items():
            before = time.perf_counter()
            session.run(graph, rows[name])
            seconds[name].append(time.perf_counter() - before)
    return seconds

"""How long a batch takes, by batch size, for graphs measured side by side."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from bundle import session

MOST_ROUNDS, FEWEST_ROUNDS = 30, 5
SECONDS_A_SIZE = 1.0
PASSES, LONGEST_S = 3, 5.0
"""Every size is timed in so many passes, a while apart; one that has taken longer than that is not timed again."""

Rounds = dict[str, list[float]]


def measure_latency(
    graphs: Mapping[str, tuple[bytes, npt.NDArray[np.uint8]]], sizes: tuple[int, ...]
) -> dict[str, dict[int, list[float]]]:
    """Return seconds on the CPU by graph and batch size, round by round, the graphs taking turns.

    Each graph comes with an image for it, uint8 [height, width, channels]. After one batch to warm up, each size runs
    for a second in each of three passes, between 5 and 30 rounds. What else the machine does only ever adds time, so
    for each size the fastest pass counts, the same one for all graphs.
    """
    opened = {name: session.open_session(raw, name) for name, (raw, _) in graphs.items()}
    passes: dict[int, list[Rounds]] = {size: [] for size in sizes}
    spent_s = dict.fromkeys(sizes, 0.0)
    for _ in range(PASSES):
        for size in [size for size in sizes if spent_s[size] < LONGEST_S]:
            rows = {name: np.repeat(row[None], size, axis=0) for name, (_, row) in graphs.items()}
            passes[size].append(_rounds(opened, rows))
            spent_s[size] += sum(map(sum, passes[size][-1].values()))
    fastest = {size: least_disturbed(rounds) for size, rounds in passes.items()}
    return {name: {size: fastest[size][name] for size in sizes} for name in graphs}


def least_disturbed(passes: Sequence[Rounds]) -> Rounds:
    """Return the pass whose medians, of all graphs together, are lowest."""
    return min(passes, key=lambda rounds: sum(map(median, rounds.values())))


def machine() -> str:
    """Describe where a latency was measured: processor, threads, onnxruntime."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {threads} threads, onnxruntime {ort.__version__}"


def _rounds(opened: Mapping[str, session.Session], rows: Mapping[str, npt.NDArray[np.uint8]]) -> Rounds:
    for name, graph in opened.items():
        session.run(graph, rows[name])
    seconds: Rounds = {name: [] for name in opened}
    started = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - started > SECONDS_A_SIZE:
            break
        for name, graph in opened.items():
            before = time.perf_counter()
            session.run(graph, rows[name])
            seconds[name].append(time.perf_counter() - before)
    return seconds

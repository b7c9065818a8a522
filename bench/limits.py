"""What the parts can do alone, in this process, with nothing around them: the limits that serving is judged by."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from bench.inputs import Input
from bench.plain import plain
from bench.spread import Spread
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess
from service.engine.kernels import by_matrix_product, has_tiles

DECODE_S = 0.3
LONE_S = 1.0
FORM_S = 0.4


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


class Alone:
    """onnxruntime with nothing around it: a sealed graph on copies of one uint8 [height, width, channels] image."""

    def __init__(self, graph: bytes, row: npt.NDArray[np.uint8], plan: Plan) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        sessions = [ort.InferenceSession(graph, options, providers=providers) for _ in range(plan.sessions)]
        rows = np.ascontiguousarray(np.broadcast_to(row, (plan.batch, *row.shape)))
        self._calls = [partial(session.run, ["probabilities"], {"image": rows}) for session in sessions]
        self._batch = plan.batch
        self._seen: list[tuple[float, float]] = []
        for call in self._calls:
            call()

    def turn(self, seconds: float) -> None:
        """Run for so long, as one more repeat."""
        rate, cpu = _rate(self._calls, seconds)
        self._seen.append((rate * self._batch, 1e3 * cpu / self._batch))

    @property
    def rate(self) -> Rate:
        """What the repeats saw."""
        return Rate(Spread.of(rate for rate, _ in self._seen), Spread.of(cpu for _, cpu in self._seen))


def onnxruntime_alone(graph: bytes, row: npt.NDArray[np.uint8], plan: Plan, repeats: int, seconds: float) -> Rate:
    """Run a sealed graph as `plan` says, `repeats` times."""
    alone = Alone(graph, row, plan)
    for _ in range(repeats):
        alone.turn(seconds)
    return alone.rate


def fastest_form(graph: bytes, row: npt.NDArray[np.uint8], batch: int, repeats: int) -> tuple[bytes, str]:
    """Return the graph, or its equal whose int8 convolutions are matrix products where that runs faster, and a word."""
    other = by_matrix_product(graph) if has_tiles() else None
    if other is None:
        return graph, "the file as it is"
    forms = [Alone(form, row, Plan(1, 1, batch)) for form in (graph, other)]
    for _ in range(repeats):
        for form in forms:
            form.turn(FORM_S)
    gain = forms[1].rate.per_second.per(forms[0].rate.per_second)
    said = f"int8 convolutions as matrix products, {gain.show(2)} of the file as it is"
    return (other, said) if gain.median > 1 else (graph, f"the file as it is; {said}")


class Limit:
    """The most that any server could answer: decoding on every core in turn with the best way to run onnxruntime.

    And the least that a lone request could take: decoding, then the best session for one image. It takes a turn in
    every repeat, as the servers do, so that a share of it compares what met the same machine.
    """

    def __init__(self, alone: Alone, lone: Alone, decode: Callable[[], object], cores: int) -> None:
        self._alone, self._lone, self._decode, self._cores = alone, lone, decode, cores
        self._decode_ms: list[float] = []

    def turn(self, seconds: float) -> None:
        """Measure the parts, onnxruntime at its best for `seconds`."""
        self._alone.turn(seconds)
        self._lone.turn(LONE_S)
        self._decode_ms.append(_milliseconds(self._decode, DECODE_S))

    @property
    def onnxruntime(self) -> Rate:
        """What onnxruntime did alone."""
        return self._alone.rate

    @property
    def decode_ms(self) -> Spread:
        """What one image took one thread."""
        return Spread.of(self._decode_ms)

    @property
    def lone_ms(self) -> Spread:
        """What a lone request takes at least."""
        parts = zip(self._decode_ms, self._lone.rate.per_second.values, strict=True)
        return Spread.of(ms + 1e3 / rate for ms, rate in parts)

    def per_second(self, http: Spread | None = None) -> Spread:
        """Return images a second, repeat by repeat; with what HTTP alone did, those that a server can answer."""
        parts = zip(self.onnxruntime.per_second.values, self._decode_ms, strict=True)
        spent = [1 / rate + ms / 1e3 / self._cores for rate, ms in parts]
        if http:
            spent = [seconds + 1 / rate for seconds, rate in zip(spent, http.values, strict=True)]
        return Spread.of(1 / seconds for seconds in spent)


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
            seen[name].append(_milliseconds(way, seconds))
    return {name: Spread.of(values) for name, values in seen.items()}


def _milliseconds(call: Callable[[], object], seconds: float) -> float:
    return 1e3 / _rate([call], seconds)[0]


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

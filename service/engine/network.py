"""One variant of one version, ready to run: its onnxruntime sessions and how rows go through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.engine.devices import Device, provider_of
from service.engine.lone import Faster
from service.port import Rows

Outputs = dict[str, npt.NDArray[np.float32]]
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes that are measured, warmed and, where the provider pads, the only ones that run."""

_SPIN_US = "200"
"""A lone ResNet-50 was answered by two threads about as fast with 50 to 1,000, and a twentieth slower with none."""


def open_session(model: bytes, device: Device, threads: int) -> Any:
    """Open an onnxruntime session whose calls use `threads` threads each (1: only the calling thread).

    During a call its threads wait for each other awake, for at most `_SPIN_US`; between calls they sleep.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=device.requested)


class Network:
    """Runs batches on one session, or on a second one with all threads when a request is alone.

    `session` carries the load: with one thread, any number of runners may call it at once. `wide`, a second copy of the
    weights, is there on a CPU of several cores, for lone requests where `faster` finds that it answers them sooner.

    With `reopen`, which opens another such session, every batch size has a session of its own: on CUDA onnxruntime
    plans a convolution anew whenever its input has another shape than the last time (0.4 s for all of ResNet-50 on an
    H100).
    """

    def __init__(
        self, session: Any, device: Device, fixed_batch: int | None, reopen: Callable[[], Any] | None = None
    ) -> None:
        self.session = session
        self._reopen = reopen
        self._sized: dict[int, Any] = {1: session} if reopen else {}
        self.wide: Any = None
        self.faster: Faster | None = None
        self.matrix_products = False
        """Whether int8 convolutions run as matrix products; see `kernels`."""
        self.device = device
        self.provider = provider_of(session)
        self.fixed_batch = fixed_batch
        self.output_names = tuple(output.name for output in session.get_outputs())

    def run(self, rows: Rows, outputs: Sequence[str], alone: bool = False) -> Outputs:
        """Run uint8 rows [n, h, w, c]; return float32 outputs of n rows each, whatever the padding was."""
        if not alone or self.faster is None:
            return self.run_on(self.session, rows, outputs)
        wide = self.faster.pick()
        began = time.perf_counter()
        values = self.run_on(self.wide if wide else self.session, rows, outputs)
        if len(rows) == 1:
            self.faster.learn(wide, time.perf_counter() - began)
        return values

    def run_on(self, session: Any, rows: Rows, outputs: Sequence[str]) -> Outputs:
        """Do what `run` does, on one of the sessions."""
        n = len(rows)
        padded = self.padded_size(n)
        if padded != n:
            rows = np.concatenate([rows, np.zeros((padded - n, *rows.shape[1:]), np.uint8)])
        if session is self.session:
            session = self._sized.get(padded, session)
        values = self._call(session, rows, outputs)
        return {name: value if padded == n else value[:n] for name, value in zip(outputs, values, strict=True)}

    def open_size(self, n: int) -> bool:
        """Open the session of a batch of n images; return whether it is a new one."""
        size = self.padded_size(n)
        if self._reopen is None or size in self._sized:
            return False
        self._sized[size] = self._reopen()
        return True

    def keep_sizes(self, cap: int) -> None:
        """Close the sessions of batches that are larger than any to come; no further ones can be opened."""
        self._reopen = None
        for size in [size for size in self._sized if size > self.padded_size(cap)]:
            del self._sized[size]

    def close(self) -> None:
        """Let go of all sessions."""
        self.session = self.wide = None
        self._sized.clear()

    def answers(self, rows: Rows, outputs: Sequence[str]) -> bool:
        """Whether rows like these still run at all: after some errors a device refuses everything until a restart."""
        try:
            self.run(np.zeros_like(rows[:1]), outputs)
        except Exception:  # the native layer raises several unrelated types
            return False
        return True

    def shrink(self, rows: Rows, outputs: Sequence[str]) -> None:
        """Give back what the sessions allocated for larger batches than these rows; on the CPU only.

        onnxruntime keeps the memory of the largest batch that it ever ran. After a measurement that is more than the
        batches to come need, and it depends on how far the measurement got.
        """
        if self.provider != "cpu":
            return  # a device's memory is kept: allocating it again is slow
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        for session in (self.session, self.wide):
            if session is not None:
                session.run(outputs, {"image": rows}, options)

    def _call(self, session: Any, rows: Rows, outputs: Sequence[str]) -> list[Any]:
        if self.provider == "cpu":
            values: list[Any] = session.run(outputs, {"image": rows})
            return values
        return run_bound(session, rows, outputs)

    def padded_size(self, n: int) -> int:
        """Return the batch size that really runs for n images."""
        if self.fixed_batch:
            return self.fixed_batch
        if not self.device.pads:
            return n
        return next((size for size in BUCKETS if size >= n), n)


def run_bound(session: Any, rows: Rows, outputs: Sequence[str]) -> list[Any]:
    """Run through IO binding: one copy to the device and one back."""
    binding = session.io_binding()
    binding.bind_cpu_input("image", rows)
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    values: list[Any] = binding.copy_outputs_to_cpu()
    return values

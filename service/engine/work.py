"""One request's images on their way through the engine, and what is reported of each batch."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from bundle.errors import ClearsightError

from service.engine.network import Network
from service.engine.plan import Plan
from service.errors import DeadlineExceeded
from service.port import Answer, Rows, ServedModel

if TYPE_CHECKING:
    from service.engine.shadow import Shadow


class Work:
    """Rows that run together, their deadline (monotonic seconds), and the place where the answer appears."""

    __slots__ = ("answer", "arrived", "client", "deadline", "dropped", "error", "images", "outputs", "rows")

    def __init__(
        self, rows: Rows, outputs: tuple[str, ...], deadline: float, client: socket.socket | None = None
    ) -> None:
        self.rows = rows
        self.images = len(rows)
        self.outputs = outputs
        self.deadline = deadline
        self.client = client
        self.arrived = 0.0
        self.answer: Answer | None = None
        self.error: ClearsightError | None = None
        self.dropped = False
        """Set by the waiter when it stopped waiting: the rows must not run any more."""

    def finish(self, answer: Answer | None, error: ClearsightError | None) -> None:
        """Deliver the answer or the refusal; called exactly once."""
        self.answer, self.error = answer, error

    def settle(self, answer: Answer) -> None:
        """Deliver the answer of a batch, at the latest when `flush` is called; instead of `finish`."""
        self.finish(answer, None)

    def flush(self) -> None:
        """Send what `settle` has held back."""


class AwaitedWork(Work):
    """Work that a thread waits for.

    The batcher may call the waiting thread to run the next batch, its own rows first: one hand-over instead of two.
    """

    __slots__ = ("_called", "_done", "_duty", "leads")

    def __init__(
        self, rows: Rows, outputs: tuple[str, ...], deadline: float, client: socket.socket | None = None
    ) -> None:
        super().__init__(rows, outputs, deadline, client)
        self._done = threading.Lock()
        self._done.acquire()
        self._called = threading.Lock()
        """Held by whoever decides first: the batcher that calls the waiter, or the waiter that gives up."""
        self.leads = False
        """Whether the thread waits for nothing but this work, so that it may be called."""
        self._duty: Callable[[], None] | None = None

    def finish(self, answer: Answer | None, error: ClearsightError | None) -> None:
        """Deliver, and wake the waiter."""
        self.answer, self.error = answer, error
        self._done.release()

    def call(self, duty: Callable[[], None]) -> bool:
        """Let the waiting thread perform a duty that finishes this work; False when it has stopped waiting."""
        if not self._called.acquire(False):
            return False
        self._duty = duty
        self._done.release()
        return True

    def wait(self, timeout_s: float) -> Answer:
        """Return the answer, or raise the refusal; after `timeout_s` the rows are dropped."""
        if not self._done.acquire(timeout=max(0.0, timeout_s)):
            if self._called.acquire(False):
                self.dropped = True
                raise DeadlineExceeded("The deadline passed while the images were waiting or running.")
            self._done.acquire()  # the batcher's call was quicker and is on its way
        if self._duty is not None:
            self._duty()
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class Lane:
    """The queue of one served version."""

    def __init__(self, served: ServedModel, network: Network, plan: Plan) -> None:
        self.served = served
        self.network = network
        self.plan = plan
        self.waiting: deque[Work] = deque()
        self.images = 0
        """Images waiting."""
        self.running = 0
        """Batches in progress."""
        self.used_s = 0.0
        """Runner seconds received, for fairness: the waiting lane that received least is next."""
        self.cost_s = plan.curve.latency(plan.cap) / plan.cap
        """Runner seconds per image: a moving average over real batches."""
        self.batch_s = plan.curve.latency(1)
        """Seconds of a batch: a moving average over real batches."""
        self.closed = False
        self.shadow: Shadow | None = None
        """Who gets copies of what ran here."""

    @property
    def backlog_s(self) -> float:
        """Runner seconds that the waiting images will take."""
        return self.images * self.cost_s

    def learn(self, images: int, seconds: float) -> None:
        """Move the averages towards a batch that just ran."""
        self.cost_s += 0.1 * (seconds / images - self.cost_s)
        self.batch_s += 0.1 * (seconds - self.batch_s)


@dataclass(slots=True)
class BatchReport:
    """What happened to one batch: for metrics, drift and the log."""

    served: ServedModel
    reason: str
    """Why it left: idle (a runner was free), queued (a runner became free), full (at its cap), retry (alone)."""
    images: int
    waits_s: list[float]
    assemble_s: float
    infer_s: float
    probabilities: npt.NDArray[np.float32] | None
    """[images, classes]; None when the batch failed or did not ask for them."""
    failed: bool = False

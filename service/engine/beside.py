"""Work whose waiter runs beside other requests in a loop: its thread does not wait with it."""

from __future__ import annotations

import socket
import time
from typing import Any

from bundle.errors import ClearsightError
from greenlet import getcurrent

from service.engine.work import Work
from service.errors import DeadlineExceeded
from service.loop import Loop
from service.port import Answer, Rows


class BesideWork(Work):
    """Work that a greenlet waits for; the replies of one batch wake its loop once."""

    __slots__ = ("_done", "_loop", "_waiter")

    def __init__(
        self,
        rows: Rows,
        outputs: tuple[str, ...],
        deadline: float,
        client: socket.socket | None,
        loop: Loop,
    ) -> None:
        super().__init__(rows, outputs, deadline, client)
        self._loop = loop
        self._done = False
        self._waiter: Any = None

    def finish(self, answer: Answer | None, error: ClearsightError | None) -> None:
        """See `Work.finish`; any thread may call it."""
        self.answer, self.error = answer, error
        self._loop.hold(self._arrive)
        self._loop.flush()

    def settle(self, answer: Answer) -> None:
        """See `Work.settle`."""
        self.answer = answer
        self._loop.hold(self._arrive)

    def flush(self) -> None:
        """See `Work.flush`."""
        self._loop.flush()

    def _arrive(self) -> None:
        self._done = True
        if self._waiter is not None:
            self._waiter.switch()

    def wait(self, timeout_s: float) -> Answer:
        """Step aside until the answer is there and return it, or raise the refusal; after `timeout_s` raise too."""
        until = time.monotonic() + timeout_s
        while not self._done:
            self._waiter = getcurrent()
            self._loop.looks.append(self._waiter.switch)
            try:
                self._loop.step_aside()
            finally:
                self._loop.looks.remove(self._waiter.switch)
                self._waiter = None
            if not self._done and time.monotonic() > until:
                raise DeadlineExceeded("The deadline passed while the images were waiting or running.")
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer

"""Work whose waiter is in another process: the reply leaves when the last part of a request is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import structlog
from bundle.errors import ClearsightError

from service.engine.engine import join
from service.engine.work import Work
from service.ipc import wire
from service.ipc.acceptor import Peer
from service.port import Answer

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))


class RemoteRequest:
    """One worker's request, which may be more than one batch's work."""

    __slots__ = ("finish", "lock", "missing", "number", "parts", "peer", "wait")

    def __init__(
        self, peer: Peer, number: int, finish: Callable[[Peer, int, bytes], None], wait: Callable[[], float]
    ) -> None:
        self.peer = peer
        self.number = number
        self.finish = finish
        self.wait = wait
        self.lock = threading.Lock()
        self.missing = 1
        self.parts: list[RemoteWork] = []

    def part_done(self, work: RemoteWork) -> None:
        """Reply when the last part is there."""
        with self.lock:
            self.missing -= 1
            self.parts.append(work)
            if self.missing:
                return
        error = next((part.error for part in self.parts if part.error is not None), None)
        if error is not None:
            message = wire.pack_refusal(self.number, error)
        else:
            message = wire.pack_answer(self.number, self._joined(), self.wait())
        self.finish(self.peer, self.number, message)

    def _joined(self) -> Answer:
        self.parts.sort(key=lambda part: part.position)
        answers = [part.answer for part in self.parts if part.answer is not None]
        return answers[0] if len(answers) == 1 else join(answers)


class RemoteWork(Work):
    """Work whose waiter is in another process."""

    __slots__ = ("position", "request")

    def __init__(
        self, rows: Any, outputs: tuple[str, ...], deadline: float, request: RemoteRequest, position: int
    ) -> None:
        super().__init__(rows, outputs, deadline)
        self.request = request
        self.position = position

    def finish(self, answer: Answer | None, error: ClearsightError | None) -> None:
        """See `Work.finish`."""
        self.answer, self.error = answer, error
        self._tell()
        self.flush()

    def settle(self, answer: Answer) -> None:
        """See `Work.settle`: the replies of one batch to one worker leave together."""
        self.answer = answer
        self._tell()

    def flush(self) -> None:
        """See `Work.flush`."""
        self.request.peer.flush()

    def _tell(self) -> None:
        try:
            self.request.part_done(self)
        except Exception:  # a reply that cannot be made must not end a runner
            log.exception("reply.failed")

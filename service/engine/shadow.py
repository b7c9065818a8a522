"""The shadow: a version that sees copies of the champion's images, and whose answers only count in a metric."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from service.engine.work import Lane
from service.port import PROBABILITIES, Rows, ServedModel

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))

_WAITING = 4
"""Batches that wait for the shadow at most; what comes when they are there is not compared."""
_LOWEST_PRIORITY = 19

Report = Callable[[ServedModel, int, int], None]
"""Takes the shadow's version, and for how many images its first label was the champion's and was not."""


class Shadow:
    """Compares one version with the champion on copies of batches, in a thread that yields to everything else."""

    def __init__(self, champion: Lane, lane: Lane, spare: Callable[[], bool], report: Report) -> None:
        self.champion = champion
        self.lane = lane
        self._spare = spare
        self._report = report
        self._batches: queue.Queue[tuple[Rows, npt.NDArray[np.float32]] | None] = queue.Queue(_WAITING)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to compare what the champion answers from now on."""
        self._thread.start()
        self.champion.shadow = self

    def stop(self) -> None:
        """Compare no more; returns when the version is not used any longer, or after 10 s."""
        self.champion.shadow = None
        self._stopping = True
        self.offer(None)
        self._thread.join(timeout=10.0)

    def offer(self, batch: tuple[Rows, npt.NDArray[np.float32]] | None) -> None:
        """Take a batch's rows and the champion's probabilities for them, unless too many wait; never waits."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            return

    def _run(self) -> None:
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while not self._stopping:
            batch = self._batches.get()
            if batch is None or self._stopping or not self._spare():
                continue
            try:
                self._compare(*batch)
            except Exception as error:  # a shadow that fails must not be noticed by anyone else
                log.warning("shadow.failed", model=self.lane.served.name, reason=type(error).__name__)

    def _compare(self, rows: Rows, probabilities: npt.NDArray[np.float32]) -> None:
        got: Any = self.lane.network.run(rows, PROBABILITIES)["probabilities"]
        theirs = _first_labels(self.champion.served, probabilities)
        agreed = sum(a == b for a, b in zip(_first_labels(self.lane.served, got), theirs, strict=True))
        self._report(self.lane.served, agreed, len(rows) - agreed)


def comparable(champion: ServedModel, shadow: ServedModel) -> bool:
    """Return whether both take the same rows: the copies are of rows that the champion's recipe made."""
    ours, theirs = champion.manifest, shadow.manifest
    return (ours.preprocessing, ours.height, ours.width) == (theirs.preprocessing, theirs.height, theirs.width)


def _first_labels(served: ServedModel, probabilities: npt.NDArray[np.float32]) -> list[str]:
    labels = served.manifest.labels
    return [labels[int(index)] for index in probabilities.argmax(axis=1)]

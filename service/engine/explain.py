"""Class activation maps: a graph of their own, opened on first use."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from bundle.integrity import read_graph
from bundle.store import Store

from service.engine.devices import CPU
from service.engine.network import open_session
from service.engine.work import Lane
from service.port import Rows


class Explainer:
    """Keeps the `explain.onnx` session of the version that was asked for last, on the CPU."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digest = ""
        self._session: object = None

    def explain(self, lane: Lane, store: Store, rows: Rows) -> npt.NDArray[np.float32] | None:
        """Return maps, float32 [n, classes, h, w], or None when the bundle has no such graph.

        One call at a time: explanations must not take the cores from predictions.
        """
        served = lane.served
        file = served.manifest.explain
        if file is None:
            return None
        with self._lock:
            if self._digest != served.digest:
                bundle = store.open(served.name, served.version)
                self._session = open_session(read_graph(bundle, file), CPU, 1)
                self._digest = served.digest
            maps: npt.NDArray[np.float32] = self._session.run(["cam"], {"image": rows})[0]  # type: ignore[attr-defined]
            return maps

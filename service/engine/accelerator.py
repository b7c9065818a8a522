"""What the models run on: one device, its runners and the queue before them, judged with the first model."""

from __future__ import annotations

import logging
import time

import structlog
from bundle.integrity import read_graph
from bundle.store import Bundle

from service.engine.batcher import Batcher
from service.engine.devices import Device, choose_device
from service.engine.loading import Threading, decide_threading, load_lane
from service.engine.memory import give_memory_back
from service.engine.work import Lane
from service.errors import DeviceUnavailable
from service.metrics import Metrics
from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))


class Accelerator:
    """Turns bundles into lanes; before the first one nobody knows which device will run them."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.device: Device | None = None
        self.batcher: Batcher | None = None
        """Known together with the device."""
        self.note = ""
        """Why the device is not the one that was asked for."""
        self.fatal: DeviceUnavailable | None = None
        """Why nothing runs at all: the device that was demanded is not there."""
        self._threading: Threading | None = None

    def load(self, bundle: Bundle) -> tuple[Lane, str]:
        """Return a proven lane, and a sentence when its variant is not the first choice; see `load_lane`."""
        started = time.monotonic()
        device, threads = self._decide(bundle)
        lane, note = load_lane(bundle, device, threads, self.settings)
        give_memory_back()
        served, plan = lane.served, lane.plan
        self.metrics.loaded(served, time.monotonic() - started)
        log.info(
            "model.loaded",
            model=served.name,
            version=served.version,
            variant=served.variant,
            provider=served.provider,
            int8_as_matrix_products=lane.network.matrix_products,
            cap=plan.cap,
            runners=plan.runners,
            threads=plan.threads,
            lone_ms=round(plan.lone_s * 1000, 3),
            seconds=round(time.monotonic() - started, 3),
        )
        return lane, note

    def open(self, lane: Lane) -> None:
        """Let a lane take work."""
        assert self.batcher is not None
        self.batcher.open(lane)

    def close(self, lane: Lane) -> None:
        """Let a lane finish what it holds and give its memory back."""
        assert self.batcher is not None
        finished = self.batcher.close(lane, self.settings.drain_s)
        served = lane.served
        self.metrics.unloaded(served)
        log.info("model.unloaded", model=served.name, version=served.version, finished=finished)
        lane.network.close()
        give_memory_back()

    def stop(self) -> None:
        """Refuse what waits and finish what runs."""
        if self.batcher:
            self.batcher.stop()

    def _decide(self, bundle: Bundle) -> tuple[Device, Threading]:
        """Judge the device and start the runners, with the first model that is loaded."""
        if self.device is not None and self._threading is not None:
            return self.device, self._threading
        try:
            device, note = choose_device(self.settings, read_graph(bundle, bundle.manifest.variants["fp32"].file))
        except DeviceUnavailable as error:
            self.fatal = error
            raise
        if note:
            log.warning("device.fallback", reason=note)
        self._threading = decide_threading(self.settings, device)
        self.note = note
        self.device = device
        self.batcher = Batcher(self._threading.runners, self.settings.queue_images, self.metrics.batch)
        self.batcher.start()
        return device, self._threading

"""The models that are served: loaded beside one another, proven, swapped in atomically, drained, and given back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import structlog
from bundle.errors import BundleError, BundleMissing, ClearsightError
from bundle.integrity import read_graph
from bundle.store import Bundle, Store

from service.engine.batcher import Batcher
from service.engine.devices import Device, choose_device
from service.engine.entry import Entry, Failure
from service.engine.loading import Threading, decide_threading, load_lane
from service.engine.memory import give_memory_back
from service.engine.work import Lane
from service.errors import DeviceUnavailable, EngineUnavailable, ModelNotReady, ModelUnknown, VersionUnknown
from service.metrics import Metrics
from service.port import EngineState, ModelStatus, ServedModel, in_share
from service.settings import Settings

_GRACE_S = 1.0
"""How long a replaced version still takes the requests that were being read when it was replaced."""
_RETRY_MOST_S = 60.0

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))


class Fleet:
    """Follows the store from one thread of its own; requests only read what it swapped in."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.store = Store(settings.store)
        self.lanes: dict[ServedModel, Lane] = {}
        self.batcher: Batcher | None = None
        self.device: Device | None = None
        self.first_look = threading.Event()
        self.fatal: DeviceUnavailable | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when what is served may have changed."""
        self._entries: dict[str, Entry] = {}
        self._reconciling = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fleet", daemon=True)
        self._threading: Threading | None = None
        self._device_note = ""

    def start(self) -> None:
        """Begin to follow the store."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following, refuse what waits and finish what runs."""
        self._stop.set()
        self._wake.set()
        if self.batcher:
            self.batcher.stop()
        self._thread.join(timeout=30.0)
        for entry in self._entries.values():
            if entry.shadow:
                entry.shadow.stop()
        self.lanes = {}

    # Requests

    def resolve(self, model: str | None, version: int | None) -> Lane:
        """Return the lane that answers for these names; see `EnginePort.resolve`."""
        name = model or self.settings.default_model
        entry = self._entries.get(name)
        if entry is None:
            if not self.first_look.is_set():
                raise ModelNotReady("The models are still being loaded.", retry_after_s=1.0)
            raise ModelUnknown(f"No model {name!r}; there are: {', '.join(self._entries) or 'none'}.")
        wanted = version if version is not None else entry.champion
        lane = entry.lanes.get(wanted) if wanted is not None else None
        if lane is not None:
            return lane
        if self._stop.is_set():
            raise EngineUnavailable("The engine is shutting down.", retry_after_s=1.0)
        raise entry.why_absent(version, self.first_look.is_set())

    def choose(self, model: str | None, version: int | None, key: str) -> Lane:
        """Return the lane that answers one request; see `EnginePort.choose`."""
        entry = self._entries.get(model or self.settings.default_model)
        canary = entry.canary() if entry is not None and version is None else None
        if canary is None or not in_share(key, canary[1]):
            return self.resolve(model, version)
        return canary[0]

    def canaries(self) -> dict[str, tuple[ServedModel, float]]:
        """Return, for each model with a canary that serves, that version and its share of the requests."""
        found = {name: entry.canary() for name, entry in list(self._entries.items())}
        return {name: (canary[0].served, canary[1]) for name, canary in found.items() if canary is not None}

    def champions(self) -> tuple[dict[str, ServedModel], dict[str, str]]:
        """Return the version that answers for each model, and for the other models why none does."""
        found: dict[str, ServedModel] = {}
        absent: dict[str, str] = {}
        for name, entry in list(self._entries.items()):
            lane = entry.lanes.get(entry.champion) if entry.champion is not None else None
            if lane:
                found[name] = lane.served
            else:
                absent[name] = entry.why_absent(None, self.first_look.is_set()).detail
        return found, absent

    # Health

    def statuses(self) -> list[ModelStatus]:
        """List every version in the store or still served, by model, ascending."""
        found = []
        for entry in list(self._entries.values()):
            versions = set(self.store.versions(entry.name)) | set(entry.lanes) | set(entry.failures)
            found += [entry.status(version) for version in sorted(versions)]
        return found

    def state(self) -> EngineState:
        """Ready when the default model's champion answers."""
        entry = self._entries.get(self.settings.default_model)
        ready = bool(entry and entry.champion in entry.lanes) and not self._stop.is_set()
        problems = [str(self.fatal.detail)] if self.fatal else []
        if self._stop.is_set():
            problems.append("the engine is shutting down")
        elif not ready:
            problems.append(self._why_not_ready(entry))
        problems += [self._device_note] if self._device_note else []
        for other in list(self._entries.values()):
            problems += other.problems()
        provider = self.device.provider if self.device else "unknown"
        return EngineState(True, self.first_look.is_set(), ready, f"{self.settings.device} -> {provider}", problems)

    def _why_not_ready(self, entry: Entry | None) -> str:
        name = self.settings.default_model
        if not self.first_look.is_set():
            return "the models are being loaded"
        if entry is None:
            there = ", ".join(self._entries) or "none"
            return f"the default model {name} is not in {self.settings.store}; models there: {there}"
        return f"the default model {name} has no champion that serves"

    # Repository control

    def load(self, model: str, version: int | None) -> None:
        """See `EnginePort.load`."""
        if not self.store.versions(model):
            raise ModelUnknown(f"No model {model!r}; there are: {', '.join(self.store.names()) or 'none'}.")
        with self._reconciling:
            entry = self._entries.setdefault(model, Entry(model))
            wanted = version if version is not None else self.store.channels(model).champion
            if wanted is None or wanted not in self.store.versions(model):
                listed = ", ".join(map(str, self.store.versions(model)))
                raise VersionUnknown(f"{model} has no version {version or 'champion'}; versions there: {listed}.")
            entry.unloaded.discard(wanted)
            entry.failures.pop(wanted, None)
            if version is not None:
                entry.pinned.add(wanted)
            self._reconcile(entry)
            if wanted not in entry.lanes:
                failure = entry.failures.get(wanted)
                raise ModelNotReady(f"{model}/{wanted}: {failure.reason if failure else entry.problem}")

    def unload(self, model: str, version: int | None) -> None:
        """See `EnginePort.unload`."""
        entry = self._entries.get(model)
        if entry is None:
            raise ModelUnknown(f"No model {model!r}; there are: {', '.join(self._entries) or 'none'}.")
        with self._reconciling:
            versions = [version] if version is not None else sorted(entry.lanes)
            if version is not None and version not in entry.lanes:
                raise VersionUnknown(f"{model} does not serve version {version}.")
            entry.pinned.difference_update(versions)
            entry.unloaded.update(versions)
            self._reconcile(entry)

    def reload(self) -> None:
        """Look at the store in this thread."""
        self.look()

    # Following the store

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:  # the watcher must outlive whatever a store can hold
                log.exception("store.unreadable", store=str(self.settings.store))
            self.first_look.set()
            self._wake.wait(self.settings.watch_s)

    def look(self) -> None:
        """Bring what is served in line with the store; what cannot be loaded changes nothing and is reported."""
        with self._reconciling:
            names = self.settings.models or tuple(self.store.names())
            default = self.settings.default_model
            for name in sorted(set(names) | set(self._entries), key=lambda name: (name != default, name)):
                self._reconcile(self._entries.setdefault(name, Entry(name)))

    def _reconcile(self, entry: Entry) -> None:
        try:
            channels = self.store.channels(entry.name)
        except (BundleError, OSError) as error:
            self._note_problem(entry, _reason(error))
            return
        if channels.champion != entry.channels.champion:
            entry.unloaded.discard(channels.champion or 0)
        if channels.champion is None and not entry.pinned:
            gone = not self.store.versions(entry.name)
            self._note_problem(entry, "it is not in the store" if gone else "channels.json names no champion")
            return
        self._note_problem(entry, "")
        entry.channels = channels
        for version in entry.wanted():
            if version not in entry.lanes and not self._stop.is_set():
                self._try(entry, version)
        if channels.champion in entry.lanes and entry.champion != channels.champion:
            log.info("champion.changed", model=entry.name, version=channels.champion, before=entry.champion)
            entry.champion = channels.champion
        if self.batcher:
            entry.cast_shadow(self.batcher, self.metrics.shadowed)
        self.on_change()  # before the old version goes: who answers must be known by then
        self._retire(entry)
        self.on_change()

    def _note_problem(self, entry: Entry, problem: str) -> None:
        if problem and problem != entry.problem:
            log.warning("model.problem", model=entry.name, reason=problem)
        entry.problem = problem

    def _try(self, entry: Entry, version: int) -> None:
        failure = entry.failures.get(version)
        if failure and time.monotonic() < failure.retry_at:
            return
        entry.loading = version
        try:
            bundle = self.store.open(entry.name, version)
            self.store.check_files(bundle)
            lane, note = self._load(bundle)
        except (ClearsightError, OSError, MemoryError) as error:
            self._note_failure(entry, version, _reason(error), failure)
            return
        finally:
            entry.loading = None
        entry.failures.pop(version, None)
        if note:
            entry.notes[version] = note
        self._serve(entry, version, lane)

    def _load(self, bundle: Bundle) -> tuple[Lane, str]:
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
            cap=plan.cap,
            runners=plan.runners,
            threads=plan.threads,
            lone_ms=round(plan.lone_s * 1000, 3),
            seconds=round(time.monotonic() - started, 3),
        )
        return lane, note

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
        self._device_note = note
        self.device = device
        self.batcher = Batcher(self._threading.runners, self.settings.queue_images, self.metrics.batch)
        self.batcher.start()
        return device, self._threading

    def _note_failure(self, entry: Entry, version: int, reason: str, before: Failure | None) -> None:
        attempts = before.attempts + 1 if before else 1
        delay_s = min(_RETRY_MOST_S, self.settings.watch_s * 2**attempts)
        entry.failures[version] = Failure(reason, attempts, time.monotonic() + delay_s)
        self.metrics.load_failed(entry.name)
        log.error("model.refused", model=entry.name, version=version, reason=reason, retry_in_s=round(delay_s, 1))

    def _serve(self, entry: Entry, version: int, lane: Lane) -> None:
        assert self.batcher is not None
        self.batcher.open(lane)
        self.lanes = {**self.lanes, lane.served: lane}
        entry.lanes = {**entry.lanes, version: lane}

    def _retire(self, entry: Entry) -> None:
        """Drain and give back what is wanted no more; a champion that could not be loaded keeps the old one."""
        wanted = {*entry.wanted()}
        if entry.champion not in entry.unloaded and entry.channels.champion not in entry.lanes:
            wanted.add(entry.champion or 0)
        for version in [v for v in entry.lanes if v not in wanted]:
            lane = entry.lanes[version]
            entry.lanes = {v: kept for v, kept in entry.lanes.items() if v != version}
            if entry.champion == version:
                entry.champion = None
            entry.draining.add(version)
            self._close(lane)
            entry.draining.discard(version)
            entry.notes.pop(version, None)
        for version in [v for v in entry.failures if v not in wanted]:
            entry.failures.pop(version, None)

    def _close(self, lane: Lane) -> None:
        assert self.batcher is not None
        self._stop.wait(_GRACE_S)
        finished = self.batcher.close(lane, self.settings.drain_s)
        self.lanes = {served: kept for served, kept in self.lanes.items() if kept is not lane}
        served = lane.served
        self.metrics.unloaded(served)
        log.info("model.unloaded", model=served.name, version=served.version, finished=finished)
        lane.network.session = lane.network.wide = None
        give_memory_back()


def _reason(error: BaseException) -> str:
    if isinstance(error, BundleMissing | ClearsightError):
        return error.detail
    if isinstance(error, OSError):
        return f"the file system says: {error.strerror or type(error).__name__}"
    return f"not enough memory ({type(error).__name__})"

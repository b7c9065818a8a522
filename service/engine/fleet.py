"""The models that are served: loaded beside one another, proven, swapped in atomically, drained, and given back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import structlog
from bundle.errors import BundleError, BundleMissing, ClearsightError
from bundle.store import Store

from service.engine.accelerator import Accelerator
from service.engine.entry import Entry, Failure
from service.engine.roster import Roster
from service.engine.work import Lane
from service.errors import ModelNotReady, ModelUnknown, VersionUnknown
from service.metrics import Metrics
from service.port import ServedModel
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
        self.accelerator = Accelerator(settings, metrics)
        self.roster = Roster(settings, self.store, self.accelerator)
        self._entries = self.roster.entries
        self.lanes: dict[ServedModel, Lane] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called when what is served may have changed."""
        self._reconciling = threading.Lock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fleet", daemon=True)

    def start(self) -> None:
        """Begin to follow the store."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following, refuse what waits and finish what runs."""
        self.roster.stopping.set()
        self._wake.set()
        self.accelerator.stop()
        self._thread.join(timeout=30.0)
        for entry in self._entries.values():
            if entry.shadow:
                entry.shadow.stop()
        self.lanes = {}

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
        while not self.roster.stopping.is_set():
            try:
                self.look()
            except Exception:  # the watcher must outlive whatever a store can hold
                log.exception("store.unreadable", store=str(self.settings.store))
            if not self.roster.first_look.is_set():
                self.roster.first_look.set()
                self.on_change()
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
            if version not in entry.lanes and not self.roster.stopping.is_set():
                self._try(entry, version)
        if channels.champion in entry.lanes and entry.champion != channels.champion:
            log.info("champion.changed", model=entry.name, version=channels.champion, before=entry.champion)
            entry.champion = channels.champion
        if self.accelerator.batcher:
            entry.cast_shadow(self.accelerator.batcher, self.metrics.shadowed)
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
            lane, note = self.accelerator.load(bundle)
        except (ClearsightError, OSError, MemoryError) as error:
            self._note_failure(entry, version, _reason(error), failure)
            return
        finally:
            entry.loading = None
        entry.failures.pop(version, None)
        if note:
            entry.notes[version] = note
        self._serve(entry, version, lane)

    def _note_failure(self, entry: Entry, version: int, reason: str, before: Failure | None) -> None:
        attempts = before.attempts + 1 if before else 1
        delay_s = min(_RETRY_MOST_S, self.settings.watch_s * 2**attempts)
        entry.failures[version] = Failure(reason, attempts, time.monotonic() + delay_s)
        self.metrics.load_failed(entry.name)
        log.error("model.refused", model=entry.name, version=version, reason=reason, retry_in_s=round(delay_s, 1))

    def _serve(self, entry: Entry, version: int, lane: Lane) -> None:
        self.accelerator.open(lane)
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
        self.roster.stopping.wait(_GRACE_S)
        self.accelerator.close(lane)
        self.lanes = {served: kept for served, kept in self.lanes.items() if kept is not lane}


def _reason(error: BaseException) -> str:
    if isinstance(error, BundleMissing | ClearsightError):
        return error.detail
    if isinstance(error, OSError):
        return f"the file system says: {error.strerror or type(error).__name__}"
    return f"not enough memory ({type(error).__name__})"

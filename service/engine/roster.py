"""The models as requests and probes see them: who answers, who does not and why, and whether the service is ready."""

from __future__ import annotations

import threading

from bundle.store import Store

from service.engine.accelerator import Accelerator
from service.engine.entry import Entry
from service.engine.work import Lane
from service.errors import EngineUnavailable, ModelNotReady, ModelUnknown
from service.port import EngineState, ModelStatus, ServedModel, in_share
from service.settings import Settings


class Roster:
    """Reads the entries that the fleet keeps; nothing here loads, changes or waits for anything."""

    def __init__(self, settings: Settings, store: Store, accelerator: Accelerator) -> None:
        self.settings = settings
        self.store = store
        self.accelerator = accelerator
        self.entries: dict[str, Entry] = {}
        """By model; only the fleet writes."""
        self.first_look = threading.Event()
        """Set when the store was looked at once."""
        self.stopping = threading.Event()

    # Requests

    def resolve(self, model: str | None, version: int | None) -> Lane:
        """Return the lane that answers for these names; see `EnginePort.resolve`."""
        name = model or self.settings.default_model
        entry = self.entries.get(name)
        if entry is None:
            if not self.first_look.is_set():
                raise ModelNotReady("The models are still being loaded.", retry_after_s=1.0)
            raise ModelUnknown(f"No model {name!r}; there are: {', '.join(self.entries) or 'none'}.")
        wanted = version if version is not None else entry.champion
        lane = entry.lanes.get(wanted) if wanted is not None else None
        if lane is not None:
            return lane
        if self.stopping.is_set():
            raise EngineUnavailable("The engine is shutting down.", retry_after_s=1.0)
        raise entry.why_absent(version, self.first_look.is_set())

    def choose(self, model: str | None, version: int | None, key: str) -> Lane:
        """Return the lane that answers one request; see `EnginePort.choose`."""
        entry = self.entries.get(model or self.settings.default_model)
        canary = entry.canary() if entry is not None and version is None else None
        if canary is None or not in_share(key, canary[1]):
            return self.resolve(model, version)
        return canary[0]

    def canaries(self) -> dict[str, tuple[ServedModel, float]]:
        """Return, for each model with a canary that serves, that version and its share of the requests."""
        found = {name: entry.canary() for name, entry in list(self.entries.items())}
        return {name: (canary[0].served, canary[1]) for name, canary in found.items() if canary is not None}

    def champions(self) -> tuple[dict[str, ServedModel], dict[str, str]]:
        """Return the version that answers for each model, and for the other models why none does."""
        found: dict[str, ServedModel] = {}
        absent: dict[str, str] = {}
        for name, entry in list(self.entries.items()):
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
        for entry in list(self.entries.values()):
            versions = set(self.store.versions(entry.name)) | set(entry.lanes) | set(entry.failures)
            found += [entry.status(version) for version in sorted(versions)]
        return found

    def state(self) -> EngineState:
        """Ready when the default model's champion answers."""
        entry = self.entries.get(self.settings.default_model)
        ready = bool(entry and entry.champion in entry.lanes) and not self.stopping.is_set()
        problems = [self.accelerator.fatal.detail] if self.accelerator.fatal else []
        if self.stopping.is_set():
            problems.append("the engine is shutting down")
        elif not ready:
            problems.append(self._why_not_ready(entry))
        problems += [self.accelerator.note] if self.accelerator.note else []
        for other in list(self.entries.values()):
            problems += other.problems()
        device = self.accelerator.device
        provider = device.provider if device else "unknown"
        return EngineState(True, self.first_look.is_set(), ready, f"{self.settings.device} -> {provider}", problems)

    def _why_not_ready(self, entry: Entry | None) -> str:
        name = self.settings.default_model
        if not self.first_look.is_set():
            return "the models are being loaded"
        if entry is None:
            there = ", ".join(self.entries) or "none"
            return f"the default model {name} is not in {self.settings.store}; models there: {there}"
        return f"the default model {name} has no champion that serves"

"""What is known of one model: its loaded versions, which of them answers, and what the operator asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from bundle.errors import ClearsightError
from bundle.store import Channels

from service.engine.batcher import Batcher
from service.engine.shadow import Report, Shadow, comparable
from service.engine.work import Lane
from service.errors import ModelNotReady, VersionUnknown
from service.port import ModelStatus

_INCOMPARABLE = "as a shadow it is not compared: its preprocessing is not the champion's"


@dataclass(slots=True)
class Failure:
    """Why a version is not served, and when it is tried again (monotonic seconds)."""

    reason: str
    attempts: int
    retry_at: float


@dataclass(slots=True)
class Entry:
    """One model: its loaded versions, which of them answers, and what the operator asked for."""

    name: str
    lanes: dict[int, Lane] = field(default_factory=dict)
    champion: int | None = None
    channels: Channels = field(default_factory=lambda: Channels(champion=None, canary=None, shadow=None, history=()))
    pinned: set[int] = field(default_factory=set)
    unloaded: set[int] = field(default_factory=set)
    failures: dict[int, Failure] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    loading: int | None = None
    draining: set[int] = field(default_factory=set)
    shadow: Shadow | None = None

    def wanted(self) -> list[int]:
        """List the versions to keep loaded, the champion first."""
        canary = self.channels.canary.version if self.channels.canary else None
        order = [self.channels.champion, canary, self.channels.shadow, *sorted(self.pinned)]
        return [v for v in dict.fromkeys(order) if v is not None and v not in self.unloaded]

    def role(self, version: int) -> str:
        """Return what the version is to production."""
        canary = self.channels.canary.version if self.channels.canary else None
        roles = {self.channels.shadow: "shadow", canary: "canary", self.champion: "champion"}
        return roles.get(version, "pinned" if version in self.pinned else "")

    def canary(self) -> tuple[Lane, float] | None:
        """Return the lane that answers a share of the requests, and the share; None where there is none."""
        wanted = self.channels.canary
        lane = self.lanes.get(wanted.version) if wanted and wanted.version != self.champion else None
        return (lane, wanted.weight) if wanted and lane else None

    def cast_shadow(self, batcher: Batcher, report: Report) -> None:
        """Let the shadow that the channels name see what the champion answers, and no other."""
        self.notes = {version: note for version, note in self.notes.items() if note != _INCOMPARABLE}
        champion = self.lanes.get(self.champion or 0)
        lane = self.lanes.get(self.channels.shadow or 0) if self.channels.shadow != self.champion else None
        if lane and champion and not comparable(champion.served, lane.served):
            self.notes[lane.served.version] = _INCOMPARABLE
            lane = None
        if self.shadow and (self.shadow.champion is not champion or self.shadow.lane is not lane):
            self.shadow.stop()
            self.shadow = None
        if lane and champion and not self.shadow:
            self.shadow = Shadow(champion, lane, batcher.spare, report)
            self.shadow.start()

    def status(self, version: int) -> ModelStatus:
        """Return the state of one version."""
        lane, failure = self.lanes.get(version), self.failures.get(version)
        state, reason = "unloaded", ""
        if lane:
            state, reason = "ready", self.notes.get(version, "")
        elif version in self.draining:
            state = "draining"
        elif failure:  # also while it is tried again
            state, reason = "failed", failure.reason
        elif version == self.loading:
            state = "loading"
        return ModelStatus(self.name, version, state, reason, self.role(version), lane.served if lane else None)

    def problems(self) -> list[str]:
        """List what an operator should look at."""
        return [
            *([f"{self.name}: {self.problem}"] if self.problem else []),
            *(f"{self.name}/{version}: {failure.reason}" for version, failure in list(self.failures.items())),
            *(f"{self.name}/{version}: {note}" for version, note in list(self.notes.items())),
        ]

    def why_absent(self, version: int | None, looked: bool) -> ClearsightError:
        """Say why a version (None: the champion) does not answer; `looked` when the store was looked at once."""
        name = self.name
        if version is not None and version not in self.failures and version != self.loading:
            listed = ", ".join(map(str, sorted(self.lanes))) or "none"
            return VersionUnknown(f"{name} does not serve version {version}; versions served: {listed}.")
        failure = self.failures.get(version if version is not None else self.channels.champion or 0)
        if failure:
            return ModelNotReady(f"{name} cannot be served: {failure.reason}", retry_after_s=5.0)
        if self.loading is not None or not looked:
            return ModelNotReady(f"{name} is being loaded.", retry_after_s=1.0)
        return ModelNotReady(f"{name} is not served: {self.problem or 'it has no champion'}.", retry_after_s=5.0)

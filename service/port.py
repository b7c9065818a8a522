"""What the HTTP side needs of an engine, wherever the engine runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from bundle.manifest import Manifest

Rows = npt.NDArray[np.uint8]
"""Images as the sealed graph takes them: uint8 [n, height, width, channels], C-contiguous."""

PROBABILITIES = ("probabilities",)


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A version that answers requests: what it is, and which variant of it runs where."""

    name: str
    version: int
    digest: str
    variant: str
    provider: str
    manifest: Manifest


@dataclass(slots=True)
class Answer:
    """What the network said: `outputs` by name, float32 [n, ...], one row per image in the order given."""

    model: ServedModel
    outputs: dict[str, npt.NDArray[np.float32]]
    timings: dict[str, float]
    """Seconds spent in `queue`, `assemble` and `infer`."""
    batch_size: int
    """Images in the batch that these rows were part of."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version in the store: `state` is loading, ready, draining, failed or unloaded, and `reason` says why."""

    name: str
    version: int
    state: str
    reason: str
    role: str
    """champion, canary, shadow, pinned, or empty."""
    served: ServedModel | None


@dataclass(frozen=True, slots=True)
class EngineState:
    """Health of the engine. `problems` are sentences for the operator, worst first."""

    live: bool
    started: bool
    ready: bool
    device: str
    """The policy in force and the provider that runs, such as `cuda? -> cpu`."""
    problems: list[str] = field(default_factory=list)


class EnginePort(Protocol):
    """An engine: the one inside this process, or the one in a process of its own."""

    def resolve(self, model: str | None, version: int | None) -> ServedModel:
        """Return the version that answers for these names (the default model's champion for two Nones).

        Raises `ModelUnknown` or `VersionUnknown` (404), `ModelNotReady` or `EngineUnavailable` (503).
        """

    def choose(self, model: str | None, version: int | None, key: str) -> ServedModel:
        """Return the version that answers one request: as `resolve`, but the canary for its share of the keys."""

    def admit(self, deadline: float, images: int = 1, model: str | None = None) -> None:
        """Refuse work that cannot be finished by `deadline` (monotonic seconds), at once and without side effects.

        Raises `QueueFull`, `DeadlineUnreachable` or `EngineUnavailable` (503, with `retry_after_s`).
        """

    def infer(
        self,
        served: ServedModel,
        rows: Rows,
        *,
        deadline: float,
        outputs: tuple[str, ...] = PROBABILITIES,
        client: socket.socket | None = None,
    ) -> Answer:
        """Run uint8 rows [n, height, width, channels] and wait for their answer.

        `deadline` is in monotonic seconds; work whose `client` has left does not run.
        Raises what `admit` does, `DeadlineExceeded`, `ClientGone`, `InferenceFailed`, or `RequestInvalid` for an
        output that the model does not have.
        """

    def explain(self, served: ServedModel, rows: Rows) -> npt.NDArray[np.float32] | None:
        """Return class activation maps, float32 [n, classes, h, w]; None when the bundle has none."""

    def models(self) -> list[ModelStatus]:
        """List every version in the store with its state."""

    def state(self) -> EngineState:
        """Return the health of the engine."""

    def load(self, model: str, version: int | None = None) -> None:
        """Load a version beside what is served (the champion without `version`) and keep it; returns when it serves.

        Raises `ModelUnknown`, `VersionUnknown`, or `ModelNotReady` with the reason why it cannot be used.
        """

    def unload(self, model: str, version: int | None = None) -> None:
        """Stop serving a version (all of them without `version`) until it is loaded again."""

    def reload(self) -> None:
        """Look at the store now instead of at the next interval."""

    def batching(self, rate: float | None = None, model: str | None = None) -> dict[str, Any]:
        """Return the batching plan as plain data; with `rate` in images/s, the predicted p99 at that rate."""

    def take(self, caller: str) -> float:
        """Count one request of a caller against its rate; return 0.0, or the seconds after which it may come."""

    def observe(self, route: str, status: int, stages: dict[str, float]) -> None:
        """Count one answered request; `stages` are seconds by stage, `total` the whole of it."""

    def reject(self, reason: str) -> None:
        """Count one refused request by its code."""

    def metrics_text(self) -> bytes:
        """Return every metric in Prometheus' text format."""


def in_share(key: str, share: float) -> bool:
    """Return whether a key belongs to a share (0..1) of all keys; always the same for the same key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest()) < share * 2**32

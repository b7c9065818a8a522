"""What the engine tells every worker: which versions are served under which number, its health, and its load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from bundle.manifest import parse_manifest

from service.port import EngineState, ModelStatus, ServedModel


@dataclass(slots=True)
class News:
    """One edition, complete in itself."""

    epoch: str
    """The engine process; another epoch is another engine."""
    state: EngineState
    default: str
    served: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By number: name, version, digest, variant, provider."""
    champions: dict[str, int] = field(default_factory=dict)
    """Model to the number of the version that answers."""
    canaries: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Model to the number of its canary and the canary's share of the requests."""
    absent: dict[str, str] = field(default_factory=dict)
    """Models that exist and have no champion that serves, with the reason."""
    statuses: list[dict[str, Any]] = field(default_factory=list)
    waits_s: dict[int, float] = field(default_factory=dict)
    serial: int = 0
    """Counts the editions of one engine: of two, the higher is the truer."""

    def encode(self) -> bytes:
        """Return the edition as JSON."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({**fields, "state": asdict(self.state)}).encode()

    @classmethod
    def decode(cls, raw: bytes) -> News:
        """Read an edition."""
        fields = json.loads(raw)
        fields["state"] = EngineState(**fields["state"])
        for name in ("served", "waits_s"):
            fields[name] = {int(number): value for number, value in fields[name].items()}
        return cls(**fields)


def describe(served: ServedModel) -> dict[str, Any]:
    """Return what identifies a served version, without its manifest."""
    return {
        "name": served.name,
        "version": served.version,
        "digest": served.digest,
        "variant": served.variant,
        "provider": served.provider,
    }


def rebuild(fields: dict[str, Any], manifest: bytes) -> ServedModel:
    """Return the served version in another process."""
    return ServedModel(**fields, manifest=parse_manifest(manifest))


def status_fields(status: ModelStatus, number: int | None) -> dict[str, Any]:
    """Return a status as plain data, its served version as a number."""
    return {
        "name": status.name,
        "version": status.version,
        "state": status.state,
        "reason": status.reason,
        "role": status.role,
        "served": number,
    }

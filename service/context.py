"""What one request carries through the service: its id, its clock, and the collaborators of the application."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from bundle.preprocess import Limits
from flask import Request, g

from service.intake import request_id_of
from service.port import EnginePort
from service.settings import Settings
from service.tickets import Tickets


class Collaborators:
    """What the application was built with."""

    __slots__ = ("draining", "engine", "limits", "settings", "tickets")

    def __init__(self, settings: Settings, engine: EnginePort, draining: Callable[[], bool]) -> None:
        self.settings = settings
        self.engine = engine
        self.draining = draining
        self.limits = Limits(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_pixels,
            max_decode_seconds=settings.max_decode_s,
        )
        self.tickets = Tickets(settings.tickets)


class Context:
    """One request: when it began (monotonic), its stages in seconds, and its id."""

    __slots__ = (
        "_began", "batch_size", "draining", "engine", "last", "limits", "request", "request_id", "settings", "stages",
        "started", "tickets",
    )  # fmt: skip

    def __init__(self, shared: Collaborators, request: Request) -> None:
        self.request = request
        """Flask's own proxy of it costs a microsecond each time."""
        self.settings = shared.settings
        self.engine = shared.engine
        self.draining = shared.draining
        self.limits = shared.limits
        self.tickets = shared.tickets
        self.request_id = request_id_of(request.environ)
        self.started = time.monotonic()
        self._began = self.last = time.perf_counter()
        self.stages: dict[str, float] = {}
        self.batch_size = 0

    def mark(self, stage: str) -> None:
        """Add the time since the last mark to a stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.last
        self.last = now

    def finish(self) -> dict[str, float]:
        """Return the stages with the `total`."""
        self.stages["total"] = time.perf_counter() - self._began
        return self.stages

    def server_timing(self) -> str:
        """Render the stages as a `Server-Timing` header, in milliseconds."""
        parts = [f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in self.stages.items()]
        if self.batch_size:
            parts.append(f'batch;desc="{self.batch_size}"')
        return ", ".join(parts)


def context() -> Context:
    """Return the context of the current request."""
    return cast(Context, g.clearsight)

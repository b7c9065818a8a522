"""`/livez`, `/readyz` and `/startupz`: probes that never wait for the engine."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from service.context import context

blueprint = Blueprint("health", __name__)


@blueprint.get("/livez")
def livez() -> Response:
    """Tell whether the process should go on living: 503 when only a restart helps."""
    state = context().engine.state()
    return _answer(state.live, {"status": "live" if state.live else "not live", "problems": state.problems})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Tell whether requests should be sent here, on which device, and what is wrong."""
    ctx = context()
    state = ctx.engine.state()
    draining = ctx.draining()
    problems = ["the service is draining", *state.problems] if draining else state.problems
    ready = state.ready and not draining
    body: dict[str, object] = {
        "status": "ready" if ready else "not ready",
        "device": state.device,
        "problems": problems,
    }
    return _answer(ready, body)


@blueprint.get("/startupz")
def startupz() -> Response:
    """Tell whether the first look at the store is over."""
    state = context().engine.state()
    return _answer(state.started, {"status": "started" if state.started else "starting", "problems": state.problems})


def _answer(good: bool, body: dict[str, object]) -> Response:
    return Response(json.dumps(body) + "\n", status=200 if good else 503, content_type="application/json")

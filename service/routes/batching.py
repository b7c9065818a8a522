"""`GET /batching`: the measured curve, the plan made from it, and the p99 that it predicts."""

from __future__ import annotations

import json
import math

from flask import Blueprint, Response, request

from service.context import context
from service.errors import RequestInvalid

blueprint = Blueprint("batching", __name__)


@blueprint.get("/batching")
def batching() -> Response:
    """Explain how requests are batched; `?rate=` (images/s) predicts the latency at that rate, `?model=` picks one."""
    answer = context().engine.batching(_rate(request.args.get("rate")), request.args.get("model"))
    return Response(json.dumps(answer) + "\n", content_type="application/json")


def _rate(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        rate = float(given)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1e9:
        raise RequestInvalid(f"rate must be a number of images per second above 0, not {given!r}.")
    return rate

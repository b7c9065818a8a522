"""`GET /models`: what the store holds and what of it is served."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from service.context import context
from service.port import ModelStatus

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
def models() -> Response:
    """List every version with its state."""
    ctx = context()
    body = {
        "default": ctx.settings.default_model,
        "models": [_fields(status) for status in ctx.engine.models()],
    }
    return Response(json.dumps(body) + "\n", content_type="application/json")


def _fields(status: ModelStatus) -> dict[str, object]:
    served = status.served
    return {
        "name": status.name,
        "version": str(status.version),
        "state": status.state,
        "reason": status.reason,
        "role": status.role,
        "digest": served.digest if served else None,
        "variant": served.variant if served else None,
        "provider": served.provider if served else None,
    }

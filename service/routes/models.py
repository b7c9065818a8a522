"""`GET /models`: what the store holds and what of it is served."""

from __future__ import annotations

import json

from flask import Blueprint, Response

from service.context import context
from service.errors import ModelUnknown, VersionUnknown
from service.intake import integer_of
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


@blueprint.get("/models/<name>")
def versions(name: str) -> Response:
    """List the versions of one model."""
    found = [_fields(status) for status in context().engine.models() if status.name == name]
    if not found:
        raise ModelUnknown(f"No model {name!r}; there are: {', '.join(_names()) or 'none'}.")
    return Response(json.dumps({"name": name, "versions": found}) + "\n", content_type="application/json")


@blueprint.get("/models/<name>/versions/<version>")
def version(name: str, version: str) -> Response:
    """Describe one version: its state and, while it is loaded, its labels, preprocessing, tensors and metrics."""
    number = integer_of("version", version, None, 1)
    for status in context().engine.models():
        if (status.name, status.version) == (name, number):
            return Response(json.dumps(_detail(status)) + "\n", content_type="application/json")
    if name not in _names():
        raise ModelUnknown(f"No model {name!r}; there are: {', '.join(_names()) or 'none'}.")
    raise VersionUnknown(f"{name} has no version {version}.")


def _names() -> list[str]:
    return sorted({status.name for status in context().engine.models()})


def _detail(status: ModelStatus) -> dict[str, object]:
    fields = _fields(status)
    if status.served is None:
        return fields
    manifest = status.served.manifest
    shown = ("labels", "preprocessing", "input", "outputs", "metrics")
    described = manifest.model_dump(mode="json", include=set(shown))
    return {**fields, **{key: described[key] for key in shown}, "explain": manifest.explain is not None}


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

"""TorchServe's inference API, so that its clients need no change: `/ping` and `/predictions/<model>`."""

from __future__ import annotations

import json

from bundle.errors import ClearsightError
from flask import Blueprint, Response, request

from service.classify import admitted, classify, target_of
from service.context import context
from service.errors import status_of
from service.intake import DEFAULT_TOP_K, read_images
from service.problems import add_retry, note_fault, safe_detail
from service.rendering import top_k

blueprint = Blueprint("torchserve", __name__)


@blueprint.get("/ping")
def ping() -> Response:
    """Tell whether the service is healthy."""
    ctx = context()
    healthy = ctx.engine.state().ready and not ctx.draining()
    body = json.dumps({"status": "Healthy" if healthy else "Unhealthy"})
    return Response(body + "\n", status=200 if healthy else 503, content_type="application/json")


@blueprint.route("/predictions/<model>", methods=["POST", "PUT"])
@blueprint.route("/predictions/<model>/<version>", methods=["POST", "PUT"])
def predictions(model: str, version: str | None = None) -> Response:
    """Classify the body, or the part `data` of a form; answer label by probability, as its image classifier does."""
    ctx = context()
    target = target_of(ctx, model, version)
    with admitted(ctx, target) as served:
        images, _ = read_images(request, ctx.settings, ("data", "body", "image"))
        ctx.mark("read")
        classified = classify(ctx, served, images[:1], target, alone=True)
    assert classified.answer is not None
    row = classified.answer.outputs["probabilities"][0]
    labels = classified.served.manifest.labels
    fields = {labels[index]: float(row[index]) for index in top_k(row, DEFAULT_TOP_K).tolist()}
    ctx.mark("encode")
    return Response(json.dumps(fields) + "\n", content_type="application/json")


@blueprint.errorhandler(ClearsightError)
def refuse(error: ClearsightError) -> Response:
    """Render a fault in TorchServe's shape."""
    note_fault(context(), error)
    status = status_of(error)
    body = json.dumps({"code": status, "type": error.code, "message": safe_detail(error)})
    response = Response(body + "\n", status=status, content_type="application/json")
    add_retry(response, error)
    return response

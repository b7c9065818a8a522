"""`POST /feedback`: the true label of an image that was classified, kept for the next retraining."""

from __future__ import annotations

from bundle.preprocess import preprocess
from flask import Blueprint, Response, request

from service.context import context
from service.errors import RequestInvalid
from service.feedback import FeedbackFolder, FeedbackOff
from service.intake import check_length, decode64, read_body, validated
from service.schema import FeedbackBody, Stored

blueprint = Blueprint("feedback", __name__)


@blueprint.post("/feedback")
def feedback() -> Response:
    """Keep a label and, if it is sent, its image. Off unless a folder is configured."""
    ctx = context()
    settings = ctx.settings
    if settings.feedback is None:
        raise FeedbackOff("This service keeps no feedback.")
    check_length(request, settings)
    body = validated(FeedbackBody, read_body(request, settings))
    served = ctx.engine.resolve(body.model, None)
    if body.label not in served.manifest.labels:
        raise RequestInvalid(f"{served.name} has no label {body.label!r}.")
    image = None
    if body.image is not None:
        data = decode64(body.image, "image")
        image = (data, preprocess(data, served.manifest.preprocessing, ctx.limits).info.format)
    folder = FeedbackFolder(settings.feedback, settings.feedback_max_bytes)
    digest = folder.keep(served.name, served.version, body.request_id, body.label, image)
    stored = Stored(request_id=body.request_id, label=body.label, image=digest)
    return Response(stored.model_dump_json() + "\n", status=201, content_type="application/json")

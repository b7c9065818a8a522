"""`/v1`: the V1 protocol of TensorFlow Serving and KServe."""

from __future__ import annotations

from typing import Any

import numpy as np
from bundle.errors import ImageError
from bundle.preprocess import Prepared
from flask import Blueprint, Response, request

from service.classify import Target, admitted, infer, prepare, target_of, with_successor
from service.context import Context, context
from service.errors import BodyTooLarge, RequestInvalid
from service.intake import check_length, decode64, integer_of, read_body, validated
from service.port import PROBABILITIES, Rows, ServedModel
from service.routes.plain import json_answer, speak_plainly
from service.schema import InstancesBody

blueprint = Blueprint("v1", __name__, url_prefix="/v1")
speak_plainly(blueprint)
_STATES = {"ready": "AVAILABLE", "loading": "LOADING", "draining": "UNLOADING"}


@blueprint.get("/models")
def models() -> Response:
    """List the models that answer."""
    return json_answer({"models": sorted({status.name for status in context().engine.models() if status.served})})


@blueprint.get("/models/<model>")
@blueprint.get("/models/<model>/versions/<version>")
def model_status(model: str, version: str | None = None) -> Response:
    """Tell whether a model answers, as KServe (`ready`) and TensorFlow Serving (`model_version_status`) say it."""
    engine = context().engine
    served = engine.resolve(model, integer_of("version", version, None, 1))
    entries = [
        {"version": str(s.version), "state": _STATES.get(s.state, "END"), "status": {"error_message": s.reason}}
        for s in engine.models()
        if s.name == model and (version is None or s.version == served.version)
    ]
    return json_answer({"name": model, "ready": True, "model_version_status": entries})


@blueprint.post("/models/<model>:predict")
@blueprint.post("/models/<model>/versions/<version>:predict")
def predict(model: str, version: str | None = None) -> Response:
    """Classify instances; one that cannot be read fails the request, as the protocol has it."""
    ctx = context()
    target = target_of(ctx, model, version)
    with admitted(ctx, target) as served:
        check_length(request, ctx.settings)
        body = validated(InstancesBody, read_body(request, ctx.settings))
        ctx.mark("read")
        most = ctx.settings.max_images
        if len(body.instances) > most:
            raise BodyTooLarge(f"The request holds {len(body.instances)} instances; at most {most} are accepted.")
        return with_successor(ctx, served, target, lambda served: _predict(ctx, served, body.instances, target))


def _predict(ctx: Context, served: ServedModel, instances: list[Any], target: Target) -> Response:
    rows = np.stack([_pixels(ctx, served, instance, i) for i, instance in enumerate(instances)])
    ctx.mark("decode")
    probabilities = infer(ctx, served, rows, target.deadline, PROBABILITIES).outputs["probabilities"]
    labels = served.manifest.labels
    predictions = [
        {"label": labels[best], "index": best, "probability": float(row[best]), "probabilities": row.tolist()}
        for row, best in zip(probabilities, probabilities.argmax(1).tolist(), strict=True)
    ]
    response = json_answer({"predictions": predictions})
    ctx.mark("encode")
    return response


def _pixels(ctx: Context, served: ServedModel, instance: Any, place: int) -> Rows:
    while isinstance(instance, dict) and len(instance) == 1 and "b64" not in instance:
        instance = next(iter(instance.values()))  # {"image": …}, {"image_bytes": …}: the name says nothing
    where = f"instances[{place}]"
    if isinstance(instance, dict):
        instance = instance.get("b64")
    if isinstance(instance, list):
        return _given_pixels(served, instance, where)
    try:
        prepared = prepare(ctx, served, decode64(instance, where), True)
    except ImageError as error:
        raise type(error)(f"{where}: {error.detail}") from None
    assert isinstance(prepared, Prepared)
    return prepared.pixels


def _given_pixels(served: ServedModel, instance: list[Any], where: str) -> Rows:
    m = served.manifest
    shape = (m.height, m.width, m.preprocessing.channels)
    try:
        values = np.array(instance)
    except ValueError:
        raise RequestInvalid(f"{where} is ragged; pixels are {list(shape)}.") from None
    if values.shape != shape or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise RequestInvalid(f"{where} must be base64 of an image, or pixels {list(shape)} of whole numbers 0 to 255.")
    return values.astype(np.uint8)

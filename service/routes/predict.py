"""`POST /predict`: images in, labels and probabilities out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from bundle.errors import ImageError
from bundle.preprocess import Prepared, preprocess
from flask import Blueprint, Response, request

from service.context import Context, context
from service.errors import ModelRetired, Overloaded
from service.intake import DEFAULT_TOP_K, deadline_of, departure_of, integer_of, read_images
from service.port import Answer, ServedModel
from service.problems import problem_fields
from service.rendering import many_answer, result_text, single_answer, text_of

blueprint = Blueprint("predict", __name__)


@dataclass(slots=True)
class Query:
    """What the URL and the headers ask for."""

    model: str | None
    version: int | None
    top_k: int
    deadline: float


@blueprint.post("/predict")
def predict() -> Response:
    """Classify the images of one request."""
    ctx = context()
    arguments = request.args
    query = Query(
        arguments.get("model"),
        integer_of("version", arguments.get("version"), None, 1),
        integer_of("top_k", arguments.get("top_k"), DEFAULT_TOP_K, 1) or DEFAULT_TOP_K,
        deadline_of(request, ctx.settings, ctx.started),
    )
    served = ctx.engine.resolve(query.model, query.version)
    if not ctx.tickets.acquire(blocking=False):
        raise Overloaded("Every place for a request in flight is taken.", retry_after_s=1.0)
    try:
        ctx.engine.admit(query.deadline, 1, query.model)
        return _predict(ctx, served, query)
    finally:
        ctx.tickets.release()


def _predict(ctx: Context, served: ServedModel, query: Query) -> Response:
    images, many = read_images(request, ctx.settings)
    ctx.mark("read")
    try:
        return _answer(ctx, served, images, many, query)
    except ModelRetired:  # swapped while the body was read: once more with its successor
        served = ctx.engine.resolve(query.model, query.version)
        return _answer(ctx, served, images, many, query)


def _answer(ctx: Context, served: ServedModel, images: list[bytes], many: bool, query: Query) -> Response:
    prepared: list[Prepared | ImageError] = []
    for data in images:
        try:
            prepared.append(preprocess(data, served.manifest.preprocessing, ctx.limits))
        except ImageError as error:
            if not many:
                raise
            prepared.append(error)
    ctx.mark("decode")
    good = [one for one in prepared if isinstance(one, Prepared)]
    answer = _infer(ctx, served, good, query.deadline) if good else None
    body = _render(ctx.request_id, served, prepared, answer, many, query.top_k)
    ctx.mark("encode")
    response = Response(body, content_type="application/json")
    response.headers["Clearsight-Provider"] = served.provider
    return response


def _infer(ctx: Context, served: ServedModel, good: list[Prepared], deadline: float) -> Answer:
    rows = good[0].pixels[None] if len(good) == 1 else np.stack([one.pixels for one in good])
    answer = ctx.engine.infer(served, rows, deadline=deadline, gone=departure_of(request.environ))
    ctx.stages.update(answer.timings)
    ctx.batch_size = answer.batch_size
    ctx.last = time.perf_counter()
    return answer


def _render(
    request_id: str,
    served: ServedModel,
    prepared: list[Prepared | ImageError],
    answer: Answer | None,
    many: bool,
    k: int,
) -> str:
    text = text_of(served)
    rows: Any = iter(answer.outputs["probabilities"] if answer else ())
    if not many:
        assert isinstance(prepared[0], Prepared)
        return single_answer(request_id, text, next(rows), k, prepared[0].info)
    results = [
        result_text(text, next(rows), k, one.info)
        if isinstance(one, Prepared)
        else json.dumps({"error": problem_fields(one)})
        for one in prepared
    ]
    return many_answer(request_id, text, results)

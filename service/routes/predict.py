"""`POST /predict`: images in, labels and probabilities out."""

from __future__ import annotations

import json

from bundle.errors import ClearsightError
from flask import Blueprint, Response

from service.classify import Classified, admitted, classify, target_of
from service.context import context
from service.intake import Options, arguments_of, options_of, read_images
from service.lean import LeanResponse
from service.problems import problem_fields
from service.rendering import extras_of, many_answer, result_text, single_answer, text_of

blueprint = Blueprint("predict", __name__)


@blueprint.post("/predict")
def predict() -> Response:
    """Classify the images of one request."""
    ctx = context()
    arguments = arguments_of(ctx.request)
    target = target_of(ctx, arguments.get("model"), arguments.get("version"))
    options = options_of(arguments)
    with admitted(ctx, target) as served:
        images, many = read_images(ctx.request, ctx.settings)
        ctx.mark("read")
        classified = classify(ctx, served, images, target, options.outputs, alone=not many)
    body = answer_text(ctx.request_id, classified, options, many)
    ctx.mark("encode")
    response = LeanResponse(body, content_type="application/json")
    response.headers["Clearsight-Provider"] = classified.served.provider
    return response


def answer_text(request_id: str, classified: Classified, options: Options, many: bool) -> str:
    """Render the answer to one image, or a list of results in the order of the images."""
    text = text_of(classified.served)
    results = result_texts(classified, options)
    if many:
        return many_answer(request_id, text, [f"{{{result}}}" for result in results])
    return single_answer(request_id, text, results[0])


def result_texts(classified: Classified, options: Options) -> list[str]:
    """Render the members that answer each image, a result or an error."""
    text, answer = text_of(classified.served), classified.answer
    texts, row = [], 0
    for one in classified.prepared:
        if isinstance(one, ClearsightError):
            texts.append(f'"error": {json.dumps(problem_fields(one))}')
            continue
        assert answer is not None
        probabilities = answer.outputs["probabilities"][row]
        k, extra = options.top_k, ""
        if options.embedding or options.threshold is not None:
            embedding = answer.outputs["embedding"][row] if options.embedding else None
            abstains, extra = extras_of(probabilities, embedding, options.threshold)
            k = 0 if abstains else k
        texts.append(result_text(text, probabilities, k, one.info, extra))
        row += 1
    return texts

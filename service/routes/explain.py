"""`POST /explain`: which parts of an image spoke for a class, and the exact pixels that the network saw."""

from __future__ import annotations

import base64
import json

from bundle.preprocess import Prepared
from flask import Blueprint, Response, request

from service.classify import Target, admitted, infer, prepare, target_of, with_successor
from service.context import Context, context
from service.errors import RequestInvalid
from service.explanation import Map, occluded, occlusion_map, overlay, picture, png_of
from service.intake import integer_of, read_images
from service.port import PROBABILITIES, ServedModel
from service.rendering import input_text, text_of

blueprint = Blueprint("explain", __name__)
METHODS = ("auto", "cam", "occlusion")
VIEWS = ("overlay", "pixels", "numbers")


@blueprint.post("/explain")
def explain() -> Response:
    """Explain the answer to one image.

    `label` or `index` picks the class (the most probable one without), `method` how (`cam` where the bundle has a
    graph for it, else `occlusion`), `view` what comes back: an `overlay` or the `pixels` as PNG, or `numbers`.
    """
    ctx = context()
    arguments = request.args
    method = _choice("method", METHODS)
    view = _choice("view", VIEWS)
    target = target_of(ctx, arguments.get("model"), arguments.get("version"))
    with admitted(ctx, target) as served:
        images, _ = read_images(request, ctx.settings)
        if len(images) != 1:
            raise RequestInvalid(f"One image is explained at a time; the request holds {len(images)}.")
        ctx.mark("read")
        return with_successor(
            ctx, served, target, lambda served: _explain(ctx, served, images[0], target, method, view)
        )


def _choice(name: str, choices: tuple[str, ...]) -> str:
    given = request.args.get(name, choices[0])
    if given not in choices:
        raise RequestInvalid(f"{name} must be one of {', '.join(choices)}, not {given!r}.")
    return given


def _explain(ctx: Context, served: ServedModel, data: bytes, target: Target, method: str, view: str) -> Response:
    asked = _class_asked(served)
    prepared = prepare(ctx, served, data, True)
    assert isinstance(prepared, Prepared)
    ctx.mark("decode")
    if view == "pixels":
        return Response(png_of(picture(prepared.pixels)), content_type="image/png")
    rows = prepared.pixels[None]
    probabilities = infer(ctx, served, rows, target.deadline, PROBABILITIES).outputs["probabilities"][0]
    index = int(probabilities.argmax()) if asked is None else asked
    method, heat = _map(ctx, served, prepared, index, target.deadline, method)
    if view == "overlay":
        response = Response(png_of(overlay(prepared.pixels, heat)), content_type="image/png")
    else:
        response = _numbers(ctx, served, prepared, heat, (index, float(probabilities[index]), method))
    response.headers["Clearsight-Class"] = f"{index}; method={method}"
    ctx.mark("encode")
    return response


def _class_asked(served: ServedModel) -> int | None:
    labels = served.manifest.labels
    label = request.args.get("label")
    if label is not None:
        if label not in labels:
            raise RequestInvalid(f"{served.name} has no label {label!r}.")
        return labels.index(label)
    index = integer_of("index", request.args.get("index"), None, 0)
    if index is not None and index >= len(labels):
        raise RequestInvalid(f"index must be below {len(labels)}, not {index}.")
    return index


def _map(
    ctx: Context, served: ServedModel, prepared: Prepared, index: int, deadline: float, method: str
) -> tuple[str, Map]:
    if method != "occlusion":
        maps = ctx.engine.explain(served, prepared.pixels[None])
        if maps is not None:
            return "cam", maps[0, index]
        if method == "cam":
            raise RequestInvalid(f"{served.name} has no class activation map; ask for method=occlusion.")
    rows = occluded(prepared.pixels)
    answer = infer(ctx, served, rows, deadline, PROBABILITIES)
    return "occlusion", occlusion_map(prepared.pixels, answer.outputs["probabilities"], index)


def _numbers(
    ctx: Context, served: ServedModel, prepared: Prepared, heat: Map, result: tuple[int, float, str]
) -> Response:
    index, probability, method = result
    fields = {
        "request_id": ctx.request_id,
        "model": json.loads(text_of(served).model),
        "label": served.manifest.labels[index],
        "index": index,
        "probability": probability,
        "method": method,
        "map": [[float(value) for value in row] for row in heat],
        "pixels": base64.b64encode(png_of(picture(prepared.pixels))).decode(),
        "input": json.loads(input_text(prepared.info)),
    }
    return Response(json.dumps(fields) + "\n", content_type="application/json")

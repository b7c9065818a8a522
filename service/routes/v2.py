"""`/v2`: the Open Inference Protocol V2, as its public clients speak it."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache
from typing import Any

import numpy as np
from flask import Blueprint, Response, request

from service.classify import Target, admitted, infer, prepare, target_of, with_successor
from service.context import Context, context
from service.encoding import deflate
from service.errors import RequestInvalid, ServiceError
from service.intake import D, check_length, integer_of, read_body, validated
from service.port import ServedModel
from service.routes.plain import json_answer, speak_plainly
from service.schema import IndexBody, LoadBody
from service.v2.inference import first_fault, image_tensor, render, tensor_metadata, wanted_outputs
from service.v2.schema import InferRequest, ModelMetadata, RepositoryEntry, ServerMetadata
from service.v2.tensors import HEADER_LENGTH, Output, Tensor, read_request, write_response

blueprint = Blueprint("v2", __name__, url_prefix="/v2")
speak_plainly(blueprint)
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
_STATES = {"ready": "READY", "loading": "LOADING", "draining": "UNLOADING"}


class Unsupported(ServiceError):
    """A part of the protocol's extensions that this server does not have."""

    status = 400
    code = "request.unsupported"


@blueprint.get("")
def server_metadata() -> Response:
    """Describe the server."""
    return json_answer(ServerMetadata(name="clearsight", version=_version(), extensions=EXTENSIONS))


@lru_cache(maxsize=1)
def _version() -> str:
    return importlib.metadata.version("clearsight")


@blueprint.get("/health/live")
def live() -> Response:
    """Tell whether the server lives."""
    return Response(status=200 if context().engine.state().live else 503)


@blueprint.get("/health/ready")
def ready() -> Response:
    """Tell whether the server takes requests."""
    ctx = context()
    return Response(status=200 if ctx.engine.state().ready and not ctx.draining() else 503)


@blueprint.get("/models/<model>/ready")
@blueprint.get("/models/<model>/versions/<version>/ready")
def model_ready(model: str, version: str | None = None) -> Response:
    """Tell whether a model takes requests."""
    _resolve(model, version)
    return Response(status=200)


@blueprint.get("/models/<model>")
@blueprint.get("/models/<model>/versions/<version>")
def model_metadata(model: str, version: str | None = None) -> Response:
    """Describe a model's inputs and outputs."""
    served = _resolve(model, version)
    inputs, outputs = tensor_metadata(served)
    versions = [str(s.version) for s in context().engine.models() if s.name == model and s.served]
    return json_answer(
        ModelMetadata(name=model, versions=versions, platform="onnxruntime_onnx", inputs=inputs, outputs=outputs)
    )


@blueprint.get("/models/<model>/config")
@blueprint.get("/models/<model>/versions/<version>/config")
def model_config(model: str, version: str | None = None) -> Response:
    """Describe a model in the shape of Triton's model configuration."""
    served = _resolve(model, version)
    inputs, outputs = tensor_metadata(served)

    def entries(tensors: list[Any]) -> list[dict[str, Any]]:
        return [{"name": t.name, "data_type": f"TYPE_{t.datatype}", "dims": t.shape[1:]} for t in tensors]

    return json_answer(
        {
            "name": model,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": served.manifest.fixed_batch or context().settings.max_images,
            "input": entries(inputs),
            "output": entries(outputs),
        }
    )


@blueprint.post("/models/<model>/infer")
@blueprint.post("/models/<model>/versions/<version>/infer")
def model_infer(model: str, version: str | None = None) -> Response:
    """Run a model on the images of one request."""
    ctx = context()
    target = target_of(ctx, model, version)
    with admitted(ctx, target) as served:
        check_length(request, ctx.settings)
        body = read_body(request, ctx.settings)
        ctx.mark("read")
        asked, tensors = read_request(body, request.headers.get(HEADER_LENGTH))
        return with_successor(ctx, served, target, lambda served: _infer(ctx, served, asked, tensors, target))


def _infer(ctx: Context, served: ServedModel, asked: InferRequest, tensors: list[Tensor], target: Target) -> Response:
    wanted = wanted_outputs(asked, served)
    rows = image_tensor(tensors, served, ctx.settings.max_images)
    if isinstance(rows, list):
        prepared = [prepare(ctx, served, data, False) for data in rows]
        fault = first_fault(prepared)
        if fault:
            raise fault
        rows = np.stack([one.pixels for one in prepared if not isinstance(one, Exception)])
    ctx.mark("decode")
    names = tuple(dict.fromkeys(output.name for output in wanted))
    answer = infer(ctx, served, rows, target.deadline, names)
    binary = bool(asked.parameters.get("binary_data_output", False))
    outputs = [render(output, answer.outputs[output.name], served, binary) for output in wanted]
    response = _infer_response(served, asked, outputs)
    ctx.mark("encode")
    response.headers["Clearsight-Provider"] = served.provider
    return response


def _infer_response(served: ServedModel, asked: InferRequest, outputs: list[Output]) -> Response:
    head: dict[str, Any] = {"model_name": served.name, "model_version": str(served.version)}
    if asked.id:
        head["id"] = asked.id
    body, header_length = write_response(head, outputs)
    packed, encoding = deflate(body, request.headers.get("Accept-Encoding", ""))
    kind = "application/json" if header_length is None else "application/octet-stream"
    response = Response(packed, content_type=kind)
    if header_length is not None:
        response.headers[HEADER_LENGTH] = str(header_length)
    if encoding:
        response.headers["Content-Encoding"] = encoding
        response.headers["Vary"] = "Accept-Encoding"
    return response


@blueprint.post("/repository/index")
def repository_index() -> Response:
    """List every version of every model with its state; `{"ready": true}` lists only those that answer."""
    only_ready = _document(IndexBody).ready
    entries = [
        RepositoryEntry(name=s.name, version=str(s.version), state=_STATES.get(s.state, "UNAVAILABLE"), reason=s.reason)
        for s in context().engine.models()
    ]
    return json_answer([entry.model_dump() for entry in entries if not only_ready or entry.state == "READY"])


@blueprint.post("/repository/models/<model>/load")
def repository_load(model: str) -> Response:
    """Load a model's champion, or the version in `parameters`."""
    context().engine.load(model, _version_parameter(("config",)))
    return Response(status=200)


@blueprint.post("/repository/models/<model>/unload")
def repository_unload(model: str) -> Response:
    """Stop serving a model, or the version in `parameters`, until it is loaded again."""
    context().engine.unload(model, _version_parameter(()))
    return Response(status=200)


def _version_parameter(refused: tuple[str, ...]) -> int | None:
    parameters = _document(LoadBody).parameters
    for name in parameters:
        if name in refused or name.startswith("file:"):
            raise RequestInvalid(f"{name!r} is not accepted: a bundle is loaded as it was published.")
    return _number(parameters.get("version"))


def _document(kind: type[D]) -> D:
    ctx = context()
    check_length(request, ctx.settings)
    return validated(kind, read_body(request, ctx.settings) or b"{}")


@blueprint.route("/systemsharedmemory/<path:_>", methods=["GET", "POST"])
@blueprint.route("/cudasharedmemory/<path:_>", methods=["GET", "POST"])
def shared_memory(_: str) -> Response:
    """Refuse shared memory: requests and answers travel by HTTP."""
    raise Unsupported("Shared memory is not supported; send tensors in the request.")


@blueprint.route("/trace/setting", methods=["GET", "POST"])
@blueprint.route("/models/<model>/trace/setting", methods=["GET", "POST"])
@blueprint.route("/logging", methods=["GET", "POST"])
def settings_extension(model: str | None = None) -> Response:
    """Refuse the trace and logging extensions: settings are read once, at the start."""
    raise Unsupported("Tracing and logging are set in the environment, at the start of the service.")


@blueprint.get("/models/stats")
@blueprint.get("/models/<model>/stats")
@blueprint.get("/models/<model>/versions/<version>/stats")
def statistics(model: str | None = None, version: str | None = None) -> Response:
    """Refuse the statistics extension: they are at `/metrics`."""
    raise Unsupported("Statistics are at /metrics, in Prometheus' format.")


def _resolve(model: str, version: str | None) -> ServedModel:
    return context().engine.resolve(model, _number(version))


def _number(version: object) -> int | None:
    return integer_of("version", None if version is None else str(version), None, 1)

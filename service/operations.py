"""What each endpoint takes and gives: the table from which `/openapi.json` is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from service import schema as own
from service.v2 import schema as v2

Content = dict[str, "type[BaseModel] | dict[str, Any]"]
"""Media type to document, or to a schema written out."""

PROBLEM = "application/problem+json"
JSON = "application/json"
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
_IMAGE_PARTS: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": _FILE, "minItems": 1}},
}
IMAGES: Content = {"application/octet-stream": _FILE, "multipart/form-data": _IMAGE_PARTS, JSON: own.ImagesBody}
ONE_IMAGE: Content = {"application/octet-stream": _FILE}
READ_FAULTS = (400, 404, 413, 415, 422)
"""How a request with images may be refused for what is in it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a header."""

    name: str
    description: str
    schema: dict[str, Any]
    place: str = "query"
    example: object = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. Statuses of keys, rates and load are added to all that need them."""

    tag: str
    answers: dict[int, Content]
    body: Content = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    faults: tuple[int, ...] = ()
    error: Content = field(default_factory=lambda: {PROBLEM: own.Problem})


NUMBER: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
MODEL = Parameter("model", "Model that answers; the default model without it.", {"type": "string"})
VERSION = Parameter("version", "Version that answers; the champion without it.", NUMBER)
DEADLINE = Parameter(
    "X-Request-Deadline-Ms",
    "Milliseconds within which the answer is wanted; what cannot be done by then is refused at once.",
    {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400_000},
    "header",
    5000,
)
CHOICE = (MODEL, VERSION, DEADLINE)
TOP_K = Parameter(
    "top_k",
    "Classes in the answer: a number or `all`.",
    {"anyOf": [NUMBER, {"const": "all"}]},
    example=3,
)
THRESHOLD = Parameter(
    "threshold",
    "Probability below which the answer abstains.",
    {"type": "number", "minimum": 0, "maximum": 1},
    example=0.5,
)
EMBEDDING = Parameter("embedding", "Whether to add the pooled features.", {"type": "boolean"}, example=True)
EXPLAIN = (
    Parameter("label", "Class to explain; the most probable one without it.", {"type": "string"}),
    Parameter("index", "The same, by its place in the labels.", {"type": "integer", "minimum": 0}, example=0),
    Parameter(
        "method",
        "How: `auto` takes `cam` where there is one.",
        {"enum": ["auto", "cam", "occlusion"]},
        example="occlusion",
    ),
    Parameter("view", "What comes back.", {"enum": ["overlay", "pixels", "numbers"]}, example="numbers"),
)
_RATE: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e9}
RATE = Parameter("rate", "Images per second for which to predict the p99.", _RATE, example=100)
_PNG: Content = {"image/png": _FILE, JSON: own.Explanation}
_TEXT_ERROR: Content = {JSON: own.ErrorText}
_EMPTY: Content = {}
_OBJECT: Content = {JSON: {"type": "object"}}
_INFER: Content = {JSON: v2.InferRequest, "application/octet-stream": _FILE}
_INFERRED: Content = {JSON: v2.InferResponse, "application/octet-stream": _FILE}


def _v2(answers: dict[int, Content], faults: tuple[int, ...] = (), body: Content | None = None) -> Operation:
    return Operation("Open Inference Protocol V2", answers, body or {}, (), faults, {JSON: v2.V2Error})


def _v1(answers: dict[int, Content], faults: tuple[int, ...] = (), body: Content | None = None) -> Operation:
    return Operation("V1 protocol", answers, body or {}, (), faults, _TEXT_ERROR)


def _probe() -> Operation:
    return Operation("Health", {200: {JSON: own.Health}, 503: {JSON: own.Health}})


_TORCHSERVE = Operation(
    "TorchServe",
    {200: {JSON: {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}}},
    ONE_IMAGE, (DEADLINE,), READ_FAULTS, {JSON: own.TorchServeError},
)  # fmt: skip
_STATUS: dict[int, Content] = {200: _OBJECT}
_V1_PREDICT = _v1({200: {JSON: own.V1Predictions}}, READ_FAULTS, {JSON: own.InstancesBody})
_METADATA: dict[int, Content] = {200: {JSON: v2.ModelMetadata}}
_CONFIG: dict[int, Content] = {200: _OBJECT}
_MODEL_READY: dict[int, Content] = {200: _EMPTY}
_MODEL_INFER = _v2({200: _INFERRED}, READ_FAULTS, _INFER)
_REFUSED = _v2({400: {JSON: v2.V2Error}})
_CHANGE = _v2({200: _EMPTY}, (400, 403, 404, 413), {JSON: own.LoadBody})
_PAGE = Operation("Pages", {200: {"text/html": {"type": "string"}}})

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/predict"): Operation(
        "Predict", {200: {JSON: {"anyOf": [own.Prediction1, own.Predictions]}}}, IMAGES,
        (*CHOICE, TOP_K, THRESHOLD, EMBEDDING), READ_FAULTS,
    ),
    ("post", "/explain"): Operation("Predict", {200: _PNG}, IMAGES, (*CHOICE, *EXPLAIN), READ_FAULTS),
    ("post", "/feedback"): Operation(
        "Predict", {201: {JSON: own.Stored}}, {JSON: own.FeedbackBody}, (), (*READ_FAULTS, 507)
    ),
    ("get", "/models"): Operation("Models", {200: {JSON: own.Models}}),
    ("get", "/models/{name}"): Operation("Models", {200: {JSON: own.ModelVersions}}, faults=(404,)),
    ("get", "/models/{name}/versions/{version}"): Operation(
        "Models", {200: {JSON: own.ModelDetail}}, faults=(400, 404)
    ),
    ("get", "/batching"): Operation("Models", {200: _OBJECT}, {}, (RATE, MODEL), (400, 404)),
    ("get", "/livez"): _probe(),
    ("get", "/readyz"): _probe(),
    ("get", "/startupz"): _probe(),
    ("get", "/metrics"): Operation("Health", {200: {"text/plain": {"type": "string"}}}),
    ("get", "/openapi.json"): Operation("Pages", {200: _OBJECT}),
    ("get", "/"): _PAGE,
    ("get", "/docs"): _PAGE,
    ("get", "/assets/{name}"): Operation("Pages", {200: {"text/css": {"type": "string"}}}, faults=(404,)),
    ("get", "/v2"): _v2({200: {JSON: v2.ServerMetadata}}),
    ("get", "/v2/health/live"): _v2({200: _EMPTY, 503: _EMPTY}),
    ("get", "/v2/health/ready"): _v2({200: _EMPTY, 503: _EMPTY}),
    ("get", "/v2/models/{model}"): _v2(_METADATA, (404,)),
    ("get", "/v2/models/{model}/versions/{version}"): _v2(_METADATA, (400, 404)),
    ("get", "/v2/models/{model}/config"): _v2(_CONFIG, (404,)),
    ("get", "/v2/models/{model}/versions/{version}/config"): _v2(_CONFIG, (400, 404)),
    ("get", "/v2/models/{model}/ready"): _v2(_MODEL_READY, (404,)),
    ("get", "/v2/models/{model}/versions/{version}/ready"): _v2(_MODEL_READY, (400, 404)),
    ("post", "/v2/models/{model}/infer"): _MODEL_INFER,
    ("post", "/v2/models/{model}/versions/{version}/infer"): _MODEL_INFER,
    ("post", "/v2/repository/index"): _v2(
        {200: {JSON: {"type": "array", "items": v2.RepositoryEntry}}}, (400, 413), {JSON: own.IndexBody}
    ),
    ("post", "/v2/repository/models/{model}/load"): _CHANGE,
    ("post", "/v2/repository/models/{model}/unload"): _CHANGE,
    ("get", "/v1/models"): _v1({200: _OBJECT}),
    ("get", "/v1/models/{model}"): _v1(_STATUS, (404,)),
    ("get", "/v1/models/{model}/versions/{version}"): _v1(_STATUS, (400, 404)),
    ("post", "/v1/models/{model}:predict"): _V1_PREDICT,
    ("post", "/v1/models/{model}/versions/{version}:predict"): _V1_PREDICT,
    ("get", "/ping"): Operation("TorchServe", {200: _OBJECT, 503: _OBJECT}),
    **{
        (method, f"/predictions/{{model}}{version}"): _TORCHSERVE
        for method in ("post", "put")
        for version in ("", "/{version}")
    },
    **{
        (method, f"/v2/{path}"): _REFUSED
        for method in ("get", "post")
        for path in (
            "systemsharedmemory/{_}", "cudasharedmemory/{_}", "trace/setting", "models/{model}/trace/setting",
            "logging",
        )
    },
    **{
        ("get", f"/v2/models/{path}"): _REFUSED
        for path in ("stats", "{model}/stats", "{model}/versions/{version}/stats")
    },
}  # fmt: skip

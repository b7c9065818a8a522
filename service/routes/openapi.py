"""`/openapi.json`: the service described by OpenAPI 3.1, made of the documents that validate its requests."""

from __future__ import annotations

import importlib.metadata
import json
import re
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, current_app
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import schema as own
from service.guards import OPEN
from service.operations import NUMBER, OPERATIONS, Content, Operation, Parameter
from service.v2 import schema as v2

blueprint = Blueprint("openapi", __name__)
_REF = "#/components/schemas/{model}"
_NAME = {"type": "string", "minLength": 1}
_LOAD = (429, 500, 503, 504)
_KEYS = (401, 403)
_RETRY = {
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
}


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe every endpoint by OpenAPI 3.1."""
    return Response(_text(current_app._get_current_object()), content_type="application/json")  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def _text(app: Flask) -> str:
    return json.dumps(document(app), indent=1) + "\n"


def paths_of(app: Flask) -> dict[tuple[str, str], str]:
    """Return every (method, path template) of the application with its endpoint."""
    found = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[a-z]+:)?(\w+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            found[method.lower(), path] = rule.endpoint
    return found


def document(app: Flask) -> dict[str, Any]:
    """Build the OpenAPI document of an application."""
    paths: dict[str, dict[str, Any]] = {}
    keys: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    security = keys if app.extensions["clearsight"].settings.api_keys else [{}, *keys]
    for (method, path), endpoint in sorted(paths_of(app).items(), key=lambda item: item[0][1]):
        text = (app.view_functions[endpoint].__doc__ or "").strip()
        operation = _operation(OPERATIONS[method, path], path, text, [] if endpoint in OPEN else security)
        operation["operationId"] = re.sub(r"\W+", "_", f"{method}_{path}").strip("_")
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Clearsight",
            "version": importlib.metadata.version("clearsight"),
            "description": "Image classification: images in, labels and probabilities out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _schemas() -> dict[str, Any]:
    documents = [
        value
        for module in (own, v2)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    ]
    named = [value for value in documents if value.__name__ != "Document"]
    _, definitions = models_json_schema([(value, "validation") for value in named], ref_template=_REF)
    return dict(definitions["$defs"])


def _operation(operation: Operation, path: str, text: str, security: list[dict[str, list[str]]]) -> dict[str, Any]:
    summary, _, description = text.partition("\n")
    described: dict[str, Any] = {"tags": [operation.tag], "summary": summary}
    if description.strip():
        described["description"] = re.sub(r"\s+", " ", description).strip()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": NUMBER if name == "version" else _NAME}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [_parameter(one) for one in operation.parameters]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {"content": _content(operation.body)}
    statuses = {*operation.faults, *(_KEYS + _LOAD if security else ())} - set(operation.answers)
    answers = {status: _answer(status, content) for status, content in operation.answers.items()}
    answers |= {status: _answer(status, operation.error) for status in statuses}
    described["responses"] = {str(status): answers[status] for status in sorted(answers)}
    if security:
        described["security"] = security
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": parameter.schema,
    }
    return described if parameter.example is None else {**described, "example": parameter.example}


def _answer(status: int, content: Content) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if content:
        answer["content"] = _content(content)
    if status in (429, 503):
        answer["headers"] = _RETRY
    return answer


def _content(content: Content) -> dict[str, Any]:
    return {media: {"schema": _schema(what), **_example(what)} for media, what in content.items()}


def _example(what: Any) -> dict[str, Any]:
    """Return the example of a document that has one."""
    if not (isinstance(what, type) and issubclass(what, BaseModel)):
        return {}
    examples = what.model_json_schema().get("examples")
    return {"example": examples[0]} if examples else {}


def _schema(what: Any) -> Any:
    """Return a schema in which every document stands as a reference."""
    if isinstance(what, type):
        return {"$ref": _REF.format(model=what.__name__)}
    if isinstance(what, dict):
        return {key: _schema(value) for key, value in what.items()}
    if isinstance(what, list):
        return [_schema(value) for value in what]
    return what

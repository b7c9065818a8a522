"""What the V1 and V2 protocols have in common: JSON answers, and every fault as `{"error": "…"}`."""

from __future__ import annotations

import json
from typing import Any

from bundle.errors import ClearsightError
from flask import Blueprint, Response
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException

from service.context import context
from service.errors import status_of
from service.problems import add_retry, log, note_fault, safe_detail


def json_answer(document: BaseModel | dict[str, Any] | list[Any], status: int = 200) -> Response:
    """Render a document."""
    text = document.model_dump_json() if isinstance(document, BaseModel) else json.dumps(document)
    return Response(text + "\n", status=status, content_type="application/json")


def speak_plainly(blueprint: Blueprint) -> None:
    """Render every fault of these routes in the protocols' own shape."""
    blueprint.register_error_handler(ClearsightError, _refuse)
    blueprint.register_error_handler(Exception, _fail)


def _refuse(error: ClearsightError) -> Response:
    note_fault(context(), error)
    response = json_answer({"error": safe_detail(error)}, status_of(error))
    add_retry(response, error)
    return response


def _fail(error: Exception) -> Response:
    """Render a fault of ours, or of HTTP."""
    if isinstance(error, HTTPException):
        return json_answer({"error": error.description or error.name}, error.code or 500)
    log.exception("request.failed", request_id=context().request_id)
    return json_answer({"error": "The service failed; the request id finds it in the log."}, 500)

"""Errors as `application/problem+json` (RFC 9457): a stable code, what was wrong, and the request id."""

from __future__ import annotations

import json
import logging
import math
from http import HTTPStatus

import structlog
from bundle.errors import ClearsightError
from flask import Response

from service.context import Context
from service.errors import ServiceError, status_of
from service.lean import LeanResponse

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.http"))

MEDIA_TYPE = "application/problem+json"
UNMATCHED = "unmatched"
"""The route label of requests for which there is no route."""


def problem_fields(error: ClearsightError) -> dict[str, object]:
    """Return the problem's members without the request id: what one image of several reports."""
    status = status_of(error)
    title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Client Closed Request"
    return {"type": "about:blank", "title": title, "status": status, "code": error.code, "detail": safe_detail(error)}


def problem(error: ClearsightError, request_id: str) -> Response:
    """Render an error as a response, with `Retry-After` where waiting helps."""
    fields = {**problem_fields(error), "request_id": request_id}
    response = LeanResponse(json.dumps(fields) + "\n", status=status_of(error), content_type=MEDIA_TYPE)
    add_retry(response, error)
    return response


def add_retry(response: Response, error: ClearsightError) -> None:
    """Say in the headers what would make the request succeed: waiting, or a key."""
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"


def note_fault(ctx: Context, error: ClearsightError) -> None:
    """Count a refusal that is a limit of ours, and log what is a fault of ours."""
    status = status_of(error)
    if status == 503 or status == 504 or status == 429:
        ctx.engine.reject(error.code)
    if status == 500:
        log.error("request.failed", request_id=ctx.request_id, code=error.code, reason=error.detail)


def safe_detail(error: ClearsightError) -> str:
    """Return what a caller may read of an error."""
    return error.detail if status_of(error) != 500 or isinstance(error, ServiceError) else "The service failed."

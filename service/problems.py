"""Errors as `application/problem+json` (RFC 9457): a stable code, what was wrong, and the request id."""

from __future__ import annotations

import json
import math
from http import HTTPStatus

from bundle.errors import ClearsightError
from flask import Response

from service.errors import ServiceError, status_of

MEDIA_TYPE = "application/problem+json"


def problem_fields(error: ClearsightError) -> dict[str, object]:
    """Return the problem's members without the request id: what one image of several reports."""
    status = status_of(error)
    title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Client Closed Request"
    detail = error.detail if status != 500 or isinstance(error, ServiceError) else "The service failed."
    return {"type": "about:blank", "title": title, "status": status, "code": error.code, "detail": detail}


def problem(error: ClearsightError, request_id: str) -> Response:
    """Render an error as a response, with `Retry-After` where waiting helps."""
    fields = {**problem_fields(error), "request_id": request_id}
    response = Response(json.dumps(fields) + "\n", status=status_of(error), content_type=MEDIA_TYPE)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return response

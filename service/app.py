"""The Flask application: built once per worker, handed its engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import structlog
from bundle.errors import ClearsightError
from flask import Flask, Response, g
from flask.globals import request_ctx
from flask.sessions import SecureCookieSession, SessionInterface
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from service import guards
from service.context import Collaborators, Context, context
from service.errors import BodyTooLarge, ServiceError
from service.lean import LeanFlask
from service.logs import Sparing
from service.port import EnginePort
from service.problems import UNMATCHED, note_fault, problem
from service.routes import (
    batching,
    explain,
    feedback,
    health,
    metrics,
    models,
    openapi,
    pages,
    predict,
    torchserve,
    v1,
    v2,
)
from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.http"))

_BUSY = (429, 503)
"""What an overloaded service answers, perhaps thousands of times a second: not every one gets its line."""
_refusals = Sparing(10)

MODULES = (predict, health, metrics, models, batching, explain, feedback, v1, v2, torchserve, openapi, pages)


class NamePart(BaseConverter):
    """A part of a path that is a name: no slash, and no colon, which the V1 protocol puts before its verbs."""

    regex = "[^/:]+"
    part_isolating = True


class NoSession(SessionInterface):
    """The service keeps no sessions; this spares every request the cost of looking for one."""

    _empty = SecureCookieSession()

    def open_session(self, app: Flask, request: Any) -> SecureCookieSession:
        """Return the same empty session each time."""
        return self._empty

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Keep nothing."""


class HTTPFault(ServiceError):
    """A fault that the HTTP layer found: no such route, a method that is not there, a body that cannot be parsed."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(error.description or error.name)
        self.status = error.code or 500
        self.code = f"http.{error.name.lower().replace(' ', '_')}"


def create_app(settings: Settings, engine: EnginePort, draining: Callable[[], bool] = lambda: False) -> Flask:
    """Build the application around an engine that somebody else starts and stops."""
    app = LeanFlask("service", static_folder=None)
    app.session_interface = NoSession()
    app.url_map.converters["default"] = NamePart
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    shared = Collaborators(settings, engine, draining)
    app.extensions["clearsight"] = shared

    @app.before_request
    def begin() -> None:
        g.clearsight = Context(shared, request_ctx.request)

    app.after_request(_finish)
    app.register_error_handler(ClearsightError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)
    for module in MODULES:
        app.register_blueprint(module.blueprint)
    guards.install(app, settings)
    return app


def _finish(response: Response) -> Response:
    """Count the request and tell the caller its id and its times."""
    ctx = context()
    stages = ctx.finish()
    headers = response.headers
    # `add` does not look for an earlier value, and there is none.
    headers.add("X-Content-Type-Options", "nosniff")
    headers.add("X-Request-Id", ctx.request_id)
    headers.add("Server-Timing", ctx.server_timing())
    rule = ctx.request.url_rule
    route = rule.rule if rule is not None else UNMATCHED
    status = response.status_code
    ctx.engine.observe(route, status, stages)
    level = ctx.settings.access_log
    if level == "all" or (level == "errors" and status >= 400):
        _log_request(ctx, route, status, level == "errors")
    return response


def _log_request(ctx: Context, route: str, status: int, sparingly: bool) -> None:
    more: dict[str, Any] = {}
    if sparingly and status in _BUSY:
        left_out = _refusals.left_out(ctx.started)
        if left_out is None:
            return
        if left_out:
            more["left_out"] = left_out
    ms = round(ctx.stages["total"] * 1000, 3)
    log.info("request", request_id=ctx.request_id, method=ctx.request.method, route=route, status=status, ms=ms, **more)


def _refuse(error: ClearsightError) -> Response:
    """Render a fault from the tree; our own limits are counted by their code."""
    ctx = context()
    note_fault(ctx, error)
    return problem(error, ctx.request_id)


def _refuse_http(error: HTTPException) -> Response:
    ctx = context()
    if isinstance(error, RequestEntityTooLarge):
        return problem(BodyTooLarge("The body is over the limit, or holds too many parts."), ctx.request_id)
    response = problem(HTTPFault(error), ctx.request_id)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _fail(error: Exception) -> Response:
    ctx = context()
    log.exception("request.failed", request_id=ctx.request_id)
    return problem(ServiceError("The service failed; the request id finds it in the log."), ctx.request_id)

"""What stands before and behind every route: keys, rate limits, CORS and security headers.

Each is installed only where its setting asks for it, so a request pays for nothing that is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NoReturn

from flask import Flask, Response, g, request

from service.access import ADMIN, PREDICT, AdminClosed, Key, KeyStore, authorize
from service.context import context
from service.errors import ServiceError
from service.settings import Settings

OPEN = frozenset(
    {
        "health.livez", "health.readyz", "health.startupz", "metrics.metrics", "pages.page", "pages.docs",
        "pages.asset", "openapi.openapi", "v2.server_metadata", "v2.live", "v2.ready", "torchserve.ping",
    }
)  # fmt: skip
"""Endpoints that need no key: probes, metrics, and pages that show nothing of a model."""
ADMIN_ONLY = frozenset({"v2.repository_load", "v2.repository_unload"})
"""Endpoints that change what is served."""
_HEADERS = "Authorization, Content-Type, X-API-Key, X-Request-Id, X-Request-Deadline-Ms"
_EXPOSED = "X-Request-Id, Server-Timing, Retry-After, Clearsight-Provider"


class RateLimited(ServiceError):
    """The caller made more requests than it may."""

    status = 429
    code = "rate.limited"


def install(app: Flask, settings: Settings) -> None:
    """Add what the settings ask for, in order: CORS preflight, keys, rate."""
    if settings.cors_origins:
        app.before_request(_preflight)
        app.after_request(_allow_origin)
    if settings.api_keys:
        app.before_request(_authentication(KeyStore(settings.api_keys)))
    else:
        app.view_functions.update({name: _closed(app.view_functions[name]) for name in ADMIN_ONLY})
    if settings.rate_limit:
        app.before_request(_limit)


def _authentication(keys: KeyStore) -> Callable[[], None]:
    def authenticate() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in OPEN:
            return
        g.key = authorize(keys, request.environ, ADMIN if endpoint in ADMIN_ONLY else PREDICT)

    return authenticate


def _closed(view: Callable[..., object]) -> Callable[..., NoReturn]:
    @functools.wraps(view)
    def refuse(**arguments: object) -> NoReturn:
        raise AdminClosed("This endpoint needs an API key with the scope 'admin', and no keys are configured.")

    return refuse


def _limit() -> None:
    if request.endpoint is None or request.endpoint in OPEN:
        return
    ctx = context()
    key: Key | None = g.get("key")
    caller = f"key:{key.name}" if key else f"address:{request.environ.get('REMOTE_ADDR', '')}"
    wait_s = ctx.engine.take(caller)
    if wait_s:
        raise RateLimited(
            f"At most {ctx.settings.rate_limit:g} requests per second are accepted from one caller.",
            retry_after_s=wait_s,
        )


def _preflight() -> Response | None:
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = "GET, POST"
    response.headers["Access-Control-Allow-Headers"] = _HEADERS
    response.headers["Access-Control-Max-Age"] = "600"
    return response


def _allow_origin(response: Response) -> Response:
    origin = request.headers.get("Origin")
    origins = context().settings.cors_origins
    if origin and (origin in origins or "*" in origins):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers.add("Vary", "Origin")
    return response

"""The page at `/` for trying the service in a browser, and `/docs`: own files only, nothing from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from flask import Blueprint, Response, abort

blueprint = Blueprint("pages", __name__)
_KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_ASSETS = frozenset({"page.js", "docs.js", "style.css"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/")
def page() -> Response:
    """Show the page: upload an image, see the answer and what the network saw."""
    return _file("page.html")


@blueprint.get("/docs")
def docs() -> Response:
    """Show every endpoint, read from `/openapi.json`."""
    return _file("docs.html")


@blueprint.get("/assets/<name>")
def asset(name: str) -> Response:
    """Give a script or a style sheet of these pages."""
    if name not in _ASSETS:
        abort(404)
    return _file(name)


def _file(name: str) -> Response:
    response = Response(_read(name), content_type=_KINDS[name.rpartition(".")[2]])
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    return response


@lru_cache(maxsize=8)
def _read(name: str) -> bytes:
    return files("service").joinpath("pages", name).read_bytes()

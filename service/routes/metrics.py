"""`/metrics`: every metric, in Prometheus' text format."""

from __future__ import annotations

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.context import context

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Render the registry of the process that owns it."""
    return Response(context().engine.metrics_text(), content_type=CONTENT_TYPE_LATEST)

"""What gunicorn loads in each worker, after the fork: the settings, the engine and the application."""

from __future__ import annotations

from flask import Flask

from service.app import create_app
from service.instance import Instance
from service.logs import configure_logs
from service.metrics import Metrics
from service.settings import read_settings


def build() -> Flask:
    """Start the engine of this worker and return the application around it."""
    from service.engine.engine import Engine

    settings = read_settings()
    configure_logs(settings)
    engine = Engine(settings, Metrics())
    engine.start()
    instance = Instance.inherited()
    return create_app(settings, engine, instance.draining if instance else lambda: False)

"""What gunicorn loads in each worker, after the fork: the settings, the engine and the application."""

from __future__ import annotations

import logging
import os
import threading

import structlog
from flask import Flask

from service.app import create_app
from service.instance import Instance
from service.logs import configure_logs
from service.metrics import Metrics
from service.port import EnginePort
from service.settings import Settings, read_settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.worker"))

_FIRST_NEWS_S = 5.0
_FIRST_LOOK_S = 15.0
"""Liveness probes wait as long as connections do, and give up after about half a minute."""
_EXIT_HUNG = 70


def build(replaces: bool = False) -> Flask:
    """Start this worker's engine, or its link to the engine's process, and return the application around it.

    A worker that replaces another one takes no connection before it can answer, for a while: they wait in the backlog.
    """
    settings = read_settings()
    configure_logs(settings)
    instance = Instance.inherited()
    engine = _embedded(settings, replaces) if settings.embedded or instance is None else _linked(settings, instance)
    return create_app(settings, engine, instance.draining if instance else lambda: False)


def _embedded(settings: Settings, replaces: bool) -> EnginePort:
    from service.engine.engine import Engine

    engine = Engine(settings, Metrics())
    engine.start()
    if replaces:
        engine.fleet.roster.first_look.wait(_FIRST_LOOK_S)
    threading.Thread(target=_watch, args=(engine,), name="watch", daemon=True).start()
    return engine


def _linked(settings: Settings, instance: Instance) -> EnginePort:
    from service.ipc.client import EngineClient

    client = EngineClient(settings, Metrics(), instance)
    client.start()
    client.link.first_news.wait(_FIRST_NEWS_S)
    return client


def _watch(engine: EnginePort) -> None:
    """End the worker when a batch hangs; gunicorn starts another one."""
    pause = threading.Event()
    while not pause.wait(1.0):
        state = engine.state()
        if not state.live:
            log.error("engine.hung", reason=state.problems[0])
            os._exit(_EXIT_HUNG)

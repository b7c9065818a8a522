from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.engine.engine import Engine, running
from service.instance import Instance
from service.ipc.client import EngineClient
from service.ipc.server import Server
from service.metrics import Metrics
from service.port import EnginePort
from service.settings import Settings
from tests.factory import publish_colors


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one colour classifier, version 1 its champion."""
    root = tmp_path / "store"
    publish_colors(root)
    return root


@pytest.fixture
def settings(store: Path) -> Settings:
    return Settings(store=store, default_model="colors", device="cpu", watch_s=0.05, warmup_s=0.2)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with running(Engine(settings, Metrics())) as started:
        yield started


@pytest.fixture
def linked(settings: Settings, engine: Engine, tmp_path: Path) -> Iterator[EngineClient]:
    """The same engine behind its sockets, as a worker of a service with several workers sees it."""
    instance = Instance(tmp_path)
    server = Server(engine, instance)
    serving = threading.Thread(target=server.run, args=(5.0,))
    serving.start()
    client = EngineClient(settings, Metrics(), instance)
    client.start()
    assert client.link.first_news.wait(10)
    yield client
    client.stop()
    server.stop()
    serving.join(10)


@pytest.fixture(params=["embedded", "linked"])
def port(request: pytest.FixtureRequest) -> EnginePort:
    """The engine in both of its places: what holds for one must hold for the other."""
    found: EnginePort = request.getfixturevalue("engine" if request.param == "embedded" else "linked")
    return found


@pytest.fixture
def client(settings: Settings, port: EnginePort) -> FlaskClient:
    return create_app(settings, port).test_client()

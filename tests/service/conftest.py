from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.engine.engine import Engine, running
from service.metrics import Metrics
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
def client(settings: Settings, engine: Engine) -> FlaskClient:
    return create_app(settings, engine).test_client()

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.access import new_key
from service.app import create_app
from service.engine.engine import Engine, running
from service.metrics import Metrics
from service.settings import Settings
from tests.factory import publish_colors
from tests.running import Running, serving


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models; `colors` has two versions, the second its champion."""
    root = tmp_path_factory.mktemp("store")
    publish_colors(root)
    publish_colors(root, gain=6.0)
    publish_colors(root, "shades", size=16)
    return root


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[Running]:
    """One real service, two workers and their shared engine, for every test that leaves it as it found it."""
    with serving(store, "colors", workers=2) as running:
        yield running


SCOPES = {"predict": ("predict",), "admin": ("admin",), "both": ("predict", "admin")}


@pytest.fixture(scope="session")
def key_lines() -> dict[str, tuple[str, str]]:
    """A key for each scope and one for both, each with its line in the file of keys."""
    return {name: new_key(name, scopes) for name, scopes in SCOPES.items()}


@pytest.fixture(scope="session")
def keys(key_lines: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The keys of `opened` by their scope."""
    return {name: secret for name, (secret, _) in key_lines.items()}


@pytest.fixture(scope="session")
def admin(keys: dict[str, str]) -> dict[str, str]:
    """The headers that open all of `opened`."""
    return {"X-API-Key": keys["both"]}


@pytest.fixture(scope="session")
def opened(
    store: Path, key_lines: dict[str, tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service with everything that a setting opens: keys, admin endpoints, feedback."""
    folder = tmp_path_factory.mktemp("opened")
    (folder / "keys").write_text("".join(f"{line}\n" for _, line in key_lines.values()))
    with serving(
        store, "colors", workers=2, api_keys=folder / "keys", feedback=folder / "feedback", feedback_max_bytes=2**40
    ) as running:
        yield running


@pytest.fixture
def client(store: Path) -> Iterator[FlaskClient]:
    """The application around an embedded engine, without a process."""
    settings = Settings(store=store, default_model="colors", device="cpu", warmup_s=0.2)
    with running(Engine(settings, Metrics())) as engine:
        yield create_app(settings, engine).test_client()

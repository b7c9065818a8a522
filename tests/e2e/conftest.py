from __future__ import annotations

from pathlib import Path

import pytest

from bundle.store import Store
from tests.e2e.traffic import Sample, make_samples
from tests.factory import publish_colors


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """A store with two versions of one model, the first its champion, and 512 images with references for both."""
    root = tmp_path_factory.mktemp("colors")
    publish_colors(root)
    publish_colors(root, champion=False, gain=2.0)
    return root, make_samples(root)


@pytest.fixture
def store(colors: tuple[Path, list[Sample]]) -> Path:
    """The shared store, its first version champion again."""
    Store(colors[0]).promote("colors", 1)
    return colors[0]


@pytest.fixture
def samples(colors: tuple[Path, list[Sample]]) -> list[Sample]:
    return colors[1]

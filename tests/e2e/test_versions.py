"""The life cycle under load: published, rolled back, deleted, corrupt. No request fails and no row is wrong."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.store import Store
from tests.e2e.running import ROOT, Running, service, wait_for
from tests.e2e.traffic import Sample, Traffic, make_samples
from tests.factory import publish_colors

SHAPES = {"embedded": {"workers": 1}, "shared": {"workers": 2}}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A service with the engine in either place, over a store of its own with two versions."""
    root = tmp_path_factory.mktemp("versions")
    publish_colors(root)
    publish_colors(root, champion=False, gain=2.0)
    with service(root, tmp_path_factory.mktemp("service"), **request.param) as started:
        yield started, root


def bundle_command(root: Path, *arguments: str) -> str:
    """Run `python -m bundle` as an operator does, and return what it printed."""
    command = [sys.executable, "-m", "bundle", "--store", str(root), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_promote_and_rollback_are_one_command_each_and_safe_under_load(running: tuple[Running, Path]) -> None:
    started, root = running
    with Traffic(started.port, make_samples(root, count=200), clients=4) as traffic:
        traffic.after(100)
        for _ in range(2):
            seen = dict(traffic.report.versions)
            assert bundle_command(root, "promote", "colors/2") == "colors: champion 1 -> 2\n"
            traffic.until(lambda seen=seen: traffic.report.versions["2"] > seen.get("2", 0) + 100)
            seen = dict(traffic.report.versions)
            assert bundle_command(root, "rollback", "colors") == "colors: champion 2 -> 1\n"
            traffic.until(lambda seen=seen: traffic.report.versions["1"] > seen["1"] + 100)
    assert traffic.report.wrong == []
    assert traffic.report.refused == {}
    assert dict(traffic.report.statuses) == {"200": traffic.good()}
    assert set(traffic.report.versions) == {"1", "2"}


def test_versions_change_under_load_without_a_failed_or_wrong_answer(running: tuple[Running, Path]) -> None:
    started, root = running
    store = Store(root)
    samples = make_samples(root, count=500)
    counted = started.settled()
    with Traffic(started.port, samples) as traffic:
        traffic.after(200)
        store.promote("colors", 2)
        traffic.until(lambda: traffic.report.versions["2"] > 200)
        store.promote("colors", 1)
        before = traffic.report.versions["1"]
        traffic.until(lambda: traffic.report.versions["1"] > before + 200)
        shutil.rmtree(root / "colors" / "2")
        traffic.after(200)
        published = publish_colors(root, champion=False, gain=3.0)
        bad = published.manifest.version
        corrupt(published.path / "model.onnx")
        force_champion(root, bad)
        wait_for(lambda: "sha256" in started.get("/readyz")[1], 20, "the refusal in /readyz")
        traffic.after(200)
    assert traffic.report.wrong == []
    assert traffic.report.refused == {}
    assert dict(traffic.report.statuses) == {"200": traffic.good()}
    assert set(traffic.report.versions) == {"1", "2"}
    models = {m["version"]: m for m in json.loads(started.get("/models")[1])["models"]}
    assert (models["1"]["state"], models[str(bad)]["state"]) == ("ready", "failed")
    assert "model.onnx" in models[str(bad)]["reason"]
    assert started.metric("clearsight_model_load_failures_total") >= 1
    assert started.get("/readyz")[0] == 200
    wait_for(lambda: started.counted() - counted == traffic.report.answered, 10, "as many counted as answered")


def test_a_full_disk_stops_neither_a_new_version_nor_a_new_engine(running: tuple[Running, Path]) -> None:
    """Nothing that loads, or that replaces a dead process, writes a file; every answer meanwhile is right."""
    started, root = running
    force_champion(root, 1)
    for left_over in Store(root).versions("colors")[1:]:
        shutil.rmtree(root / "colors" / str(left_over))
    version = publish_colors(root, champion=False, gain=5.0).manifest.version
    counted = started.settled()
    with Traffic(started.port, make_samples(root, count=200), clients=4) as traffic, full_disk(started):
        traffic.after(50)
        force_champion(root, version)
        traffic.until(lambda: traffic.report.versions[str(version)] > 100)
    assert traffic.report.wrong == []
    assert dict(traffic.report.statuses) == {"200": traffic.good()}
    wait_for(lambda: started.counted() - counted == traffic.report.answered, 10, "as many counted as answered")
    if engines := started.children("service.engine"):
        with full_disk(started):
            starts = started.metric("clearsight_engine_starts_total")
            engines[0].kill()
            wait_for(lambda: started.metric("clearsight_engine_starts_total") == starts + 1, 30, "the next engine")
            wait_for(started.ready, 30, "readiness")


@contextlib.contextmanager
def full_disk(running: Running) -> Iterator[None]:
    """Let no process of a service write to any file, its log included; what it starts meanwhile inherits that."""
    _limit_files(running, 0)
    try:
        yield
    finally:
        _limit_files(running, resource.RLIM_INFINITY)


def _limit_files(running: Running, size: int) -> None:
    for member in running.family():
        resource.prlimit(member.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def corrupt(path: Path) -> None:
    """Change one byte in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def force_champion(root: Path, version: int) -> None:
    """Name a champion as a careless hand would: without looking at its files."""
    path = root / "colors" / "channels.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "champion": version}))


def test_twenty_reloads_give_their_memory_back(tmp_path: Path, samples: list[Sample]) -> None:
    del samples
    publish_colors(tmp_path / "store", size=64)
    publish_colors(tmp_path / "store", champion=False, gain=2.0, size=64)
    store = Store(tmp_path / "store")
    with service(tmp_path / "store", tmp_path, workers=2) as started:
        resident = []
        for turn in range(20):
            version = 2 - turn % 2
            store.promote("colors", version)
            text = f'"version": "{3 - version}", "state": "unloaded"'
            wait_for(lambda text=text: text in started.get("/models")[1], 30, text)
            resident.append(started.engine.memory_info().rss)
    assert resident[-1] <= resident[1] * 1.10

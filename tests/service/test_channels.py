"""Canary and shadow: who answers, who only watches, and that nobody waits for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from bundle.store import Channels, Store
from service.engine.engine import Engine
from service.engine.shadow import Shadow
from service.port import EnginePort, in_share
from tests.factory import color_image, publish_colors


def until(met: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


def assign(store: Path, channel: str, version: int | None, weight: float | None = None) -> Channels:
    return Store(store).set_channels("colors", lambda channels: channels.assigned(channel, version, weight))


def chosen(port: EnginePort, keys: int = 1000) -> Counter[int]:
    return Counter(port.choose("colors", None, f"key-{number}").version for number in range(keys))


def test_the_canary_answers_its_share_and_the_same_keys_again(port: EnginePort, store: Path) -> None:
    publish_colors(store, champion=False, gain=2.0)
    assign(store, "canary", 2, 0.25)
    until(lambda: chosen(port, 100)[2])
    shares = chosen(port)
    assert 200 <= shares[2] <= 300
    assert chosen(port) == shares
    assert {port.choose("colors", 1, f"key-{number}").version for number in range(50)} == {1}
    assert port.resolve(None, None).version == 1
    assign(store, "canary", None)
    until(lambda: chosen(port, 100) == {1: 100})


def test_a_canary_that_cannot_be_loaded_answers_nothing(port: EnginePort, store: Path) -> None:
    bad = publish_colors(store, champion=False, gain=2.0)
    (bad.path / "model.onnx").write_bytes(b"not a graph")
    assign(store, "canary", 2, 0.5)
    until(lambda: {s.version: s.state for s in port.models()}.get(2) == "failed")
    assert chosen(port, 100) == {1: 100}


def test_a_request_id_decides_between_champion_and_canary(client: FlaskClient, port: EnginePort, store: Path) -> None:
    publish_colors(store, champion=False, gain=2.0)
    assign(store, "canary", 2, 0.5)
    until(lambda: chosen(port, 100)[2])
    for number in range(20):
        reply = client.post("/predict", data=color_image("red"), headers={"X-Request-Id": f"id-{number}"})
        assert reply.status_code == 200
        assert reply.get_json()["model"]["version"] == ("2" if in_share(f"id-{number}", 0.5) else "1")


@pytest.mark.parametrize(("gain", "agrees"), [(2.0, "yes"), (-4.0, "no")], ids=["agrees", "differs"])
def test_the_shadow_sees_what_the_champion_answers(
    client: FlaskClient, engine: Engine, store: Path, gain: float, agrees: str
) -> None:
    publish_colors(store, champion=False, gain=gain)
    assign(store, "shadow", 2)
    line = f'clearsight_shadow_images_total{{agrees="{agrees}",model="colors",version="2"}}'

    def counted() -> bool:
        reply = client.post("/predict", data=color_image("red"))
        assert reply.get_json()["model"]["version"] == "1"
        return any(text.startswith(line) and float(text.split()[-1]) > 0 for text in metrics(engine))

    until(counted)
    other = "no" if agrees == "yes" else "yes"
    assert f"{line.replace(agrees, other, 1)} 0.0" in metrics(engine)
    assert 'clearsight_predictions_total{label="red",model="colors",version="2"}' not in "\n".join(metrics(engine))
    assign(store, "shadow", None)
    until(lambda: {s.version: s.state for s in engine.models()}[2] == "unloaded")


def test_a_shadow_that_takes_other_images_is_named_and_not_compared(engine: Engine, store: Path) -> None:
    publish_colors(store, champion=False, size=16)
    assign(store, "shadow", 2)
    until(lambda: "preprocessing" in {s.version: s.reason for s in engine.models()}[2])


def test_a_shadow_runs_only_while_there_is_spare_capacity_and_never_holds_up_the_champion() -> None:
    reports: list[Any] = []
    ran: list[int] = []
    spare = [False]

    def run(rows: Any, outputs: Any) -> dict[str, Any]:
        ran.append(len(rows))
        return {"probabilities": np.eye(3, dtype=np.float32)[[0] * len(rows)]}

    served = SimpleNamespace(manifest=SimpleNamespace(labels=("red", "green", "blue")))
    champion, lane = (SimpleNamespace(served=served, network=SimpleNamespace(run=run), shadow=None) for _ in range(2))
    shadow = Shadow(champion, lane, lambda: spare[0], lambda *report: reports.append(report))  # type: ignore[arg-type]
    batch = (np.zeros((2, 8, 8, 3), np.uint8), np.eye(3, dtype=np.float32)[[0, 1]])
    for _ in range(100):
        shadow.offer(batch)
    shadow.start()
    until(shadow._batches.empty)
    assert ran == []
    spare[0] = True
    shadow.offer(batch)
    until(lambda: reports)
    shadow.stop()
    assert (ran, reports) == ([2], [(served, 1, 1)])
    assert champion.shadow is None


def metrics(engine: Engine) -> list[str]:
    return engine.metrics_text().decode().splitlines()

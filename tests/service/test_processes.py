"""What the processes of one service agree on: folders, settings of the start, counts that cross between them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engine.engine import Engine
from service.errors import EngineUnavailable
from service.instance import ENVIRONMENT, Instance
from service.ipc.client import EngineClient
from service.ipc.server import Server
from service.ipc.wire import PING
from service.keeper import Keeper

ROOT = Path(__file__).resolve().parents[2]


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{f"CLEARSIGHT_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "service", "serve"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_two_services_on_one_host_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    first, second = Instance.create(tmp_path), Instance.create(tmp_path)
    first.introduce(os.getpid(), 8001)
    second.introduce(os.getpid(), 8002)
    assert first.engine_address != second.engine_address
    assert first.folder.stat().st_mode & 0o777 == 0o700
    second.begin_draining()
    assert (first.draining(), second.draining()) == (False, True)
    found = Instance.of_port(tmp_path, 8002)
    assert found is not None
    assert (found[0].folder, found[1]) == (second.folder, os.getpid())
    assert Instance.of_port(tmp_path, 8003) is None


def test_a_port_that_is_taken_stops_the_start_with_its_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = start(port=str(taken.getsockname()[1]), runtime=str(tmp_path), store=str(tmp_path))
    assert done.returncode == 2
    assert "CLEARSIGHT_PORT" in done.stderr


def test_cuda_that_is_demanded_and_not_there_stops_the_start_with_exit_code_3(store: Path, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        return  # here it is there, and the service would start
    done = start(port="0", runtime=str(tmp_path), store=str(store), default_model="colors", device="cuda!")
    assert done.returncode == 3
    assert "cuda!" in done.stderr


def test_counts_cross_processes_once(linked: EngineClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the engine took them and its confirmation was lost."""
    deliver = linked.link.call
    lost: list[str] = []

    def call(method: str, *frames: bytes, **options: float) -> bytes:
        answer = deliver(method, *frames, **options)
        if method == "observe" and len(lost) < 2:
            lost.append(method)
            raise EngineUnavailable("The engine does not answer.")
        return answer

    monkeypatch.setattr(linked.link, "call", call)
    for _ in range(3):
        linked.observe("/predict", 200, {"total": 0.2, "decode": 0.1})
    linked.reject("queue.full")
    linked.link.bring()
    linked.observe("/predict", 200, {"total": 0.2, "decode": 0.1})
    for _ in range(3):
        linked.link.bring()
    assert len(lost) == 2
    text = engine.metrics_text().decode()
    assert 'clearsight_requests_total{route="/predict",status="200"} 4.0' in text
    assert 'clearsight_rejected_total{reason="queue.full"} 1.0' in text
    assert 'clearsight_stage_duration_seconds_count{stage="decode"} 4.0' in text
    assert 'clearsight_request_duration_seconds_sum{route="/predict"} 0.8' in text


def test_the_end_of_the_first_look_is_told_at_once(
    linked: EngineClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then an unknown model may be one that was not looked at yet, which is another answer."""
    looking, go_on = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        go_on.wait(10)

    monkeypatch.setattr("service.ipc.server._NEWS_S", 60.0)
    monkeypatch.setattr(engine.fleet, "look", look)
    assert looking.wait(5)
    engine.fleet.roster.first_look.clear()
    engine.fleet.on_change()
    assert _soon(lambda: not linked.state().started)
    go_on.set()
    assert _soon(lambda: linked.state().started)


def _soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 2.0
    while time.monotonic() < until and not true():
        time.sleep(0.01)
    return true()


def test_an_engine_that_says_it_is_in_trouble_is_killed_and_a_sound_one_is_not(engine: Engine) -> None:
    server, replies = Server.__new__(Server), []
    server.engine, server.reply = engine, replies.append  # type: ignore[method-assign]
    keeper = Keeper.__new__(Keeper)
    keeper.started = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        for lost in ("", "cuda runs nothing any more"):
            assert engine.batcher is not None and child.poll() is None
            engine.batcher.lost = lost
            server._dispatch([b"keeper", b"0", PING, b""])
            keeper._feel(child, json.loads(replies[-1][3]))
        assert child.wait(5) == -signal.SIGKILL
    assert keeper.started.is_set()

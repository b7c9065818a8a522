"""The images and the compose file, run for real: `make test-containers` on any machine with docker or podman."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.running import free_port

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


@dataclass
class Stack:
    """The compose project under test: how to talk to it, and where it listens."""

    compose: list[str]
    service: str
    prometheus: str
    environment: dict[str, str] = field(repr=False)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command; on failure its output is the error."""
        done = subprocess.run(
            [*self.compose, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=1500
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Build the images and start the project on free ports; afterwards remove it with its volumes."""
    service, prometheus = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = dict(os.environ) | {"CLEARSIGHT_PUBLISH": service, "PROMETHEUS_PUBLISH": prometheus}
    compose = [*_compose(), "--project-name", f"clearsight-test-{os.getpid()}", "--profile", "retrain"]
    stack = Stack(compose, f"http://{service}", f"http://{prometheus}", environment)
    stack.run("build")
    try:
        stack.run("up", "--detach", "service", "prometheus")
        _eventually(lambda: requests.get(f"{stack.service}/readyz", timeout=2).status_code == 200, 120)
        yield stack
    finally:
        stack.run("down", "--volumes", check=False)


def test_the_serving_container_is_unprivileged_and_holds_no_torch(stack: Stack) -> None:
    """The user is not root, the root file system is read-only, and neither torch nor training is there."""
    program = (
        "import importlib.util as u, json, os\n"
        "try: open('/app/x', 'w'); writable = True\n"
        "except OSError: writable = False\n"
        "names = ('torch', 'training', 'onnx', 'onnxruntime', 'pip')\n"
        "found = {name: u.find_spec(name) is not None for name in names}\n"
        "print(json.dumps({'uid': os.getuid(), 'writable': writable} | found))"
    )
    inside = json.loads(_exec(stack, "python", "-c", program).splitlines()[-1])
    absent = {"torch": False, "training": False, "onnx": False, "pip": False}
    assert inside == {"uid": 10001, "writable": False, "onnxruntime": True, **absent}


def test_a_photograph_is_classified(stack: Stack) -> None:
    """`/predict` answers from the default model with what it read."""
    reply = _predict(stack, _photograph(500, 375))
    assert reply["model"]["name"] == "cifar10"
    assert reply["input"]["format"] == "JPEG"
    assert (reply["input"]["width"], reply["input"]["height"]) == (500, 375)
    assert 0.99 < sum(p["probability"] for p in _predict(stack, _photograph(500, 375), top_k=10)["predictions"]) < 1.01


def test_the_health_check_of_the_image_passes(stack: Stack) -> None:
    """What HEALTHCHECK runs exits 0 in the running container."""
    check = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.strip().startswith('CMD ["python", "-c"')
    ]
    _exec(stack, *json.loads(check[0].strip().removeprefix("CMD ")))


def test_prometheus_scrapes_the_service(stack: Stack) -> None:
    """The target is up, its request counter has risen, and the alert rules are loaded."""
    _predict(stack, _photograph(100, 80))
    _eventually(lambda: _query(stack, 'up{job="clearsight"}') == 1, 60)
    _eventually(lambda: (_query(stack, "sum(clearsight_requests_total)") or 0) > 0, 60)
    rules = requests.get(f"{stack.prometheus}/api/v1/rules", timeout=5).json()["data"]["groups"]
    assert "ClearsightDown" in {rule["name"] for group in rules for rule in group["rules"]}


LENIENT = {
    "train.epochs": 1, "gate.max_top1_drop": 0.5, "gate.significance": 1e-9, "gate.max_class_recall_drop": 0.9,
    "gate.max_ece_rise": 0.9, "gate.max_latency_ratio": 100,
}  # fmt: skip
"""What is tested is the way into production, not whether the candidate is good enough for it."""


def test_a_retrained_version_takes_over_without_a_restart(stack: Stack) -> None:
    """The retrain job publishes into the shared volume and the running service answers with the new version."""
    before = _predict(stack, _photograph(64, 64), model="digits")["model"]["version"]
    options = [word for key, value in LENIENT.items() for word in ("--set", f"{key}={value}")]
    # One thread: PyTorch's threads would wait for each other on a machine that does other work.
    job = ["run", "--rm", "-T", "-e", "OMP_NUM_THREADS=1", "retrain", "retrain", "--model", "digits", *options]
    done = stack.run(*job)
    _eventually(
        lambda: _predict(stack, _photograph(64, 64), model="digits")["model"]["version"] != before, 30, done.stdout
    )


def test_down_loses_no_request(stack: Stack) -> None:
    """Every request that was under way when the service was told to stop is answered with 200, and the drain ends."""
    load = _Load(stack.service, _photograph(1600, 1067), clients=8)
    with _follow_log(stack) as log:
        _eventually(lambda: load.answered > 50, 120)
        down_at = time.time()
        stack.run("down")
        load.finish()
    begun_at, done = _drain(log)
    assert down_at < begun_at
    assert done, "the service was killed before its drain was over"
    due = [outcome for started, _, outcome in load.requests if started < begun_at - CONNECTING_S]
    assert len(due) > 50
    assert set(due) == {200}
    assert any(started < begun_at < ended for started, ended, _ in load.requests), "nothing was under way"


CONNECTING_S = 0.25
"""A client on a busy machine may need this long from its note of the time to its connection."""


class _Load:
    """Clients that send one request after the other until the server takes no more connections."""

    def __init__(self, url: str, body: bytes, clients: int) -> None:
        self.url, self.body = url, body
        self.requests: list[tuple[float, float, int | str]] = []
        """When each began and ended, in seconds of the day's clock, and its status or error."""
        self.threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    @property
    def answered(self) -> int:
        return len(self.requests)

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self.threads), "a request was left hanging"

    def _client(self) -> None:
        outcome: int | str = 200
        while outcome == 200:
            started = time.time()
            try:
                outcome = requests.post(f"{self.url}/predict", data=self.body, headers=PATIENT, timeout=60).status_code
            except requests.ConnectionError as error:
                outcome = str(error)
            self.requests.append((started, time.time(), outcome))


JPEG = {"Content-Type": "image/jpeg"}
PATIENT = JPEG | {"X-Request-Deadline-Ms": "60000"}
"""What is tested is that nothing is lost, not how fast a busy machine answers."""


def _compose() -> list[str]:
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("podman") and shutil.which("podman-compose"):
        return ["podman-compose"]
    pytest.fail("needs docker with its compose plugin, or podman with podman-compose")


@contextlib.contextmanager
def _follow_log(stack: Stack) -> Iterator[list[str]]:
    """Collect what the service logs until its container is gone."""
    lines: list[str] = []
    command = [*stack.compose, "logs", "--follow", "service"]
    with subprocess.Popen(
        command, cwd=ROOT, env=stack.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        try:
            yield lines
            reader.join(30)
        finally:
            process.kill()
            reader.join(30)


def _drain(log: list[str]) -> tuple[float, bool]:
    """Return when the service began to drain, and whether it came to the end of it."""
    decoder = json.JSONDecoder()  # an engine may put the container's name before a line and colors around it
    events = [decoder.raw_decode(line, line.index("{"))[0] for line in log if '"drain.' in line]
    begun = next(event for event in events if event["event"] == "drain.begun")
    at = datetime.fromisoformat(begun["timestamp"]).timestamp()
    return at, any(event["event"] == "drain.done" for event in events)


def _exec(stack: Stack, *words: str) -> str:
    return stack.run("exec", "-T", "service", *words).stdout.strip()


def _photograph(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def _predict(stack: Stack, body: bytes, **query: Any) -> Any:
    reply = requests.post(f"{stack.service}/predict", params=query, data=body, headers=JPEG, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()


def _query(stack: Stack, expression: str) -> float | None:
    reply = requests.get(f"{stack.prometheus}/api/v1/query", params={"query": expression}, timeout=5).json()
    found = reply["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def _eventually(true: Callable[[], bool], seconds: float, detail: str = "") -> None:
    """Wait for another process to reach a state that it announces nowhere."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(requests.RequestException):
            if true():
                return
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s {detail}")

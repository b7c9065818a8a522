"""The images and the compose file, run for real: `make test-containers` on any machine with docker or podman."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import requests
import yaml

from tests.containers.load import Load, follow_log, last_drain
from tests.containers.stack import BUILD_S, LOOK, ROOT, UNPRIVILEGED, Stack, eventually, look, photograph, running_stack

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_S + 900)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack() as stack:
        yield stack


def test_the_serving_container_is_unprivileged_and_holds_no_torch(stack: Stack) -> None:
    """No root, no capability, only /tmp is writable, signals reach Python itself, and torch and training are absent."""
    packages = ("onnxruntime", "torch", "training", "onnx", "pip")
    found = look(stack.exec("python", "-c", LOOK, *packages))
    serve = ["python", "-m", "service", "serve"]
    assert found == UNPRIVILEGED | {"first process": serve, "packages": ["onnxruntime"]}


def test_the_training_container_is_unprivileged_and_holds_no_server(stack: Stack) -> None:
    """The same of the retrain job, in whose image neither flask nor the service is."""
    job = ("run", "--rm", "-T", "--entrypoint", "python", "retrain", "-c", LOOK)
    found = look(stack.run(*job, "torch", "training", "flask", "gunicorn", "service", "pip").stdout)
    assert found["first process"][0] == "python"
    assert found == found | UNPRIVILEGED | {"packages": ["torch", "training"]}


def test_a_photograph_is_classified(stack: Stack) -> None:
    """`/predict` answers from the default model with what it read."""
    reply = stack.predict(photograph(500, 375))
    assert reply["model"]["name"] == "cifar10"
    assert reply["input"]["format"] == "JPEG"
    assert (reply["input"]["width"], reply["input"]["height"]) == (500, 375)
    assert 0.99 < sum(p["probability"] for p in stack.predict(photograph(500, 375), top_k=10)["predictions"]) < 1.01


def test_prometheus_scrapes_the_service(stack: Stack) -> None:
    """The target is up, its request counter has risen, and the alert rules are loaded."""
    stack.predict(photograph(100, 80))
    eventually(lambda: stack.query('up{job="clearsight"}') == 1, 60)
    eventually(lambda: (stack.query("sum(clearsight_requests_total)") or 0) > 0, 60)
    rules = requests.get(f"{stack.prometheus}/api/v1/rules", timeout=5).json()["data"]["groups"]
    assert "ClearsightDown" in {rule["name"] for group in rules for rule in group["rules"]}


LENIENT = {
    "train.epochs": 1, "gate.max_top1_drop": 0.5, "gate.significance": 1e-9, "gate.max_class_recall_drop": 0.9,
    "gate.max_ece_rise": 0.9, "gate.max_latency_ratio": 100,
}  # fmt: skip
"""What is tested is the way into production, not whether the candidate is good enough for it."""


def test_a_retrained_version_takes_over_without_a_restart(stack: Stack) -> None:
    """The retrain job publishes into the shared volume and the running service answers with the new version."""
    before, started = _version(stack), stack.inspect("service", "{{.State.StartedAt}}")
    options = [word for key, value in LENIENT.items() for word in ("--set", f"{key}={value}")]
    # One thread: PyTorch's threads would wait for each other on a machine that does other work.
    job = ["run", "--rm", "-T", "-e", "OMP_NUM_THREADS=1", "retrain", "retrain", "--model", "digits", *options]
    done = stack.run(*job)
    eventually(lambda: _version(stack) > before, 30, done.stdout)
    assert stack.inspect("service", "{{.State.StartedAt}}") == started


def test_image_and_compose_file_have_the_same_health_check() -> None:
    """It stands in both because images in the OCI format, podman's default, hold none."""
    lines = (line.strip() for line in (ROOT / "Dockerfile").read_text().splitlines())
    of_image = next(line for line in lines if line.startswith('CMD ["python", "-c"')).removeprefix("CMD ")
    of_compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["service"]["healthcheck"]
    assert ["CMD", *json.loads(of_image)] == of_compose["test"]


def test_health_follows_readiness(stack: Stack) -> None:
    """The engine calls both containers healthy, and the service unhealthy once `/readyz` is not 200."""
    for service in ("service", "prometheus"):
        eventually(lambda service=service: stack.healthy(service), 60, service)
    stack.exec("python", "-m", "service", "drain")
    assert stack.readiness() == 503
    eventually(lambda: not stack.healthy("service"), 120)
    stack.run("restart", "service")
    eventually(lambda: stack.readiness() == 200 and stack.healthy("service"), 120)


def test_a_stop_ends_the_service_by_itself(stack: Stack) -> None:
    """The signal reaches the service, which drains and ends with 0, long before it would be killed (137)."""
    began = time.monotonic()
    stack.run("stop", "service")
    assert time.monotonic() - began < 30
    assert stack.inspect("service", "{{.State.ExitCode}}") == "0"
    stack.run("start", "service")
    eventually(lambda: stack.readiness() == 200, 120)


def test_a_service_that_ends_is_started_again(stack: Stack) -> None:
    """What ends without being told to by the engine comes back and becomes ready."""
    before = stack.inspect("service", "{{.State.StartedAt}}")
    stack.exec("python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    eventually(lambda: stack.inspect("service", "{{.State.StartedAt}}") != before, 60)
    eventually(lambda: stack.readiness() == 200, 120)


CONNECTING_S = 0.25
"""A client on a busy machine may need this long from its note of the time to its connection."""


def test_down_loses_no_request(stack: Stack) -> None:
    """Every request that was under way when the service was told to stop is answered with 200, and the drain ends."""
    load = Load(stack.service, photograph(1600, 1067), clients=8)
    with follow_log(stack) as log:
        eventually(lambda: load.answered > 50, 120)
        down_at = time.time()
        stack.run("down")
        load.finish()
    begun_at, done = last_drain(log)
    assert down_at < begun_at
    assert done, "the service was killed before its drain was over"
    due = [outcome for started, _, outcome in load.requests if started < begun_at - CONNECTING_S]
    assert len(due) > 50
    assert set(due) == {200}
    assert any(started < begun_at < ended for started, ended, _ in load.requests), "nothing was under way"


def _version(stack: Stack) -> int:
    return int(stack.predict(photograph(64, 64), model="digits")["model"]["version"])

"""The compose project as a process: how the tests of containers start it, talk to it and look into it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.running import free_port

ROOT = Path(__file__).parents[2]
BUILD_S = 3000
"""An image with CUDA or torch is gigabytes of packages."""
JPEG = {"Content-Type": "image/jpeg"}

LOOK = """
import importlib.util, json, pathlib, sys
def writable(folder):
    try: pathlib.Path(folder, '.written').touch()
    except OSError: return False
    return True
of_1 = dict(line.split(':\\t', 1) for line in pathlib.Path('/proc/1/status').read_text().splitlines() if ':\\t' in line)
print(json.dumps({
    'users': of_1['Uid'].split(), 'capabilities': of_1['CapBnd'], 'no new privileges': of_1['NoNewPrivs'],
    'first process': pathlib.Path('/proc/1/cmdline').read_bytes().decode().split('\\0')[:-1],
    'writable': [folder for folder in ('/app', '/tmp', '/opt/venv') if writable(folder)],
    'packages': [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
}))
"""
"""A program that tells, in a container, who its first process is, what it may do, and which packages are there."""
UNPRIVILEGED = {"users": ["10001"] * 4, "capabilities": "0" * 16, "no new privileges": "1", "writable": ["/tmp"]}


@dataclass
class Stack:
    """The compose project under test: how to talk to it, and where it listens."""

    compose: list[str]
    service: str
    prometheus: str
    environment: dict[str, str] = field(repr=False)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a compose command; on failure its output is the error."""
        return _run([*self.compose, *words], check, env=self.environment)

    def exec(self, *words: str) -> str:
        """Run a command in the container of the service and return what it printed."""
        return self.run("exec", "-T", "service", *words).stdout.strip()

    def container(self, service: str) -> str:
        """Return the id of the container of a service, whether it runs or not."""
        project = self.compose[self.compose.index("--project-name") + 1]
        labels = (f"com.docker.compose.project={project}", f"com.docker.compose.service={service}")
        return engine("ps", "--all", "--quiet", *(word for label in labels for word in ("--filter", f"label={label}")))

    def inspect(self, service: str, template: str) -> str:
        """Return what the engine knows about the container of a service."""
        return engine("inspect", "--format", template, self.container(service))

    def healthy(self, service: str) -> bool:
        """Tell whether the engine calls a container healthy; podman looks when asked, docker at intervals."""
        if engine_name() == "podman":
            return _run(["podman", "healthcheck", "run", self.container(service)], check=False).returncode == 0
        return self.inspect(service, "{{.State.Health.Status}}") == "healthy"

    def readiness(self) -> int:
        """Return the status of `/readyz`."""
        return requests.get(f"{self.service}/readyz", timeout=2).status_code

    def predict(self, body: bytes, **query: Any) -> Any:
        """Return what `/predict` answers to an image, which must be a success."""
        reply = requests.post(f"{self.service}/predict", params=query, data=body, headers=JPEG, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def query(self, expression: str) -> float | None:
        """Return the first value that Prometheus gives for an expression."""
        reply = requests.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=5).json()
        found = reply["data"]["result"]
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def running_stack() -> Iterator[Stack]:
    """Build the images and start the project on free ports; afterwards remove it with its volumes."""
    service, prometheus = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = dict(os.environ) | {"CLEARSIGHT_PUBLISH": service, "PROMETHEUS_PUBLISH": prometheus}
    command = [*compose(), "--project-name", f"clearsight-test-{os.getpid()}", "--profile", "retrain"]
    stack = Stack(command, f"http://{service}", f"http://{prometheus}", environment)
    stack.run("build")
    try:
        stack.run("up", "--detach", "service", "prometheus")
        eventually(lambda: stack.readiness() == 200, 120)
        yield stack
    finally:
        stack.run("down", "--volumes", check=False)


@cache
def compose() -> tuple[str, ...]:
    """Return the compose command of this machine."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return "docker", "compose"
    if shutil.which("podman") and shutil.which("podman-compose"):
        return ("podman-compose",)
    pytest.fail("needs docker with its compose plugin, or podman with podman-compose")


def engine_name() -> str:
    """Return `docker` or `podman`, whichever the compose command drives."""
    return "docker" if compose()[0] == "docker" else "podman"


def engine(*words: str) -> str:
    """Run a docker or podman command and return what it printed; on failure its output is the error."""
    return _run([engine_name(), *words], check=True).stdout.strip()


def look(output: str) -> dict[str, Any]:
    """Read what `LOOK` printed."""
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def photograph(width: int, height: int) -> bytes:
    """Return a real photograph as a JPEG of this size."""
    buffer = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def eventually(true: Callable[[], bool], seconds: float, detail: str = "") -> None:
    """Wait for another process to reach a state that it announces nowhere."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(requests.RequestException):
            if true():
                return
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s {detail}")


def _run(command: list[str], check: bool, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=BUILD_S)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done

"""A service as a process of its own, and the processes below it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


class Running:
    """`python -m service serve` on a free port, with its own runtime folder and log."""

    def __init__(self, store: Path, folder: Path, **settings: object) -> None:
        self.runtime = folder / "runtime"
        self.runtime.mkdir(exist_ok=True)
        self.log = folder / "service.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CLEARSIGHT_")},
            "CLEARSIGHT_STORE": str(store),
            "CLEARSIGHT_DEFAULT_MODEL": "colors",
            "CLEARSIGHT_DEVICE": "cpu",
            "CLEARSIGHT_PORT": "0",
            "CLEARSIGHT_RUNTIME": str(self.runtime),
            "CLEARSIGHT_WATCH_S": "0.2",
            "CLEARSIGHT_WARMUP_S": "0.2",
            **{f"CLEARSIGHT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.cold_s = 0.0
        """How long the first start took until it was ready."""

    def start(self, extra_path: Path | None = None) -> None:
        """Start, and wait until it is ready."""
        environment = dict(self.environment)
        if extra_path:
            environment["PYTHONPATH"] = str(extra_path)
        began = time.monotonic()
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "service", "serve"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.port = wait_for(self._port, 60, "the service to open its port")
        wait_for(self.ready, 90, "the service to be ready")
        self.cold_s = time.monotonic() - began

    @property
    def pid(self) -> int:
        """The parent's process id."""
        assert self.process is not None
        return self.process.pid

    def _port(self) -> int:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        for note in self.runtime.glob("clearsight-*/parent.json"):
            with contextlib.suppress(ValueError):
                return int(json.loads(note.read_text())["port"])
        return 0

    def get(self, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
        """Fetch a path; status 0 when there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        return self.get("/readyz")[0] == 200

    def children(self, text: str, of: int | None = None) -> list[psutil.Process]:
        """Processes below the parent whose command line holds a text, oldest first; with `of`, that one's own only."""
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if text in " ".join(child.cmdline()) and of in (None, child.ppid()):
                    found.append(child)
        return sorted(found, key=lambda child: child.create_time())

    @property
    def engine(self) -> psutil.Process:
        """The engine's process."""
        return self.children("service.engine")[0]

    def masters(self) -> list[psutil.Process]:
        """gunicorn's masters: the children whose parent is ours; none for a moment after one was killed."""
        return self.children("gunicorn", of=self.pid)

    @property
    def master(self) -> psutil.Process:
        """The gunicorn master that runs."""
        return wait_for(self.masters, 20, "gunicorn")[-1]

    @property
    def workers(self) -> list[psutil.Process]:
        """gunicorn's workers."""
        return self.children("gunicorn", of=self.master.pid)

    def family(self) -> list[psutil.Process]:
        """Every process of the service."""
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def metric(self, name: str) -> float:
        """Sum a metric over its labels."""
        text = self.get("/metrics")[1]
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def counted(self) -> float:
        """Read how many answers to predictions the metrics count, of every status."""
        lines = self.get("/metrics")[1].splitlines()
        name = 'clearsight_requests_total{route="/predict"'
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of the log about an event, oldest first."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def told(self) -> int:
        """Return how many answers to predictions ended engines counted, as the last lines that they wrote say."""
        totals = [line["answered"].get("/predict", {}) for line in self.logged("engine.stopped")]
        return sum(sum(statuses.values()) for statuses in totals)

    def settled(self) -> float:
        """Return that count once no worker has anything left to bring."""
        counts = [-1.0]

        def steady() -> bool:
            counts.append(self.counted())
            return len(counts) > 12 and len(set(counts[-12:])) == 1

        wait_for(steady, 20, "counts that do not change")
        return counts[-1]

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """End it whatever its state."""
        assert self.process is not None
        if self.process.poll() is None:
            for member in self.family():
                with contextlib.suppress(psutil.Error):
                    member.kill()
        self.process.wait(timeout=30)


@contextlib.contextmanager
def service(store: Path, folder: Path, extra_path: Path | None = None, **settings: object) -> Iterator[Running]:
    """Run a service for the length of a test."""
    running = Running(store, folder, **settings)
    try:
        running.start(extra_path)
        yield running
    finally:
        if running.process is not None:
            running.kill()


def ended(process: psutil.Process) -> bool:
    """Whether a process is gone, or waits only for its parent to see it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(probe: Callable[[], T], within_s: float, what: str) -> T:
    """Return the first true value of a probe, asked ten times a second."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {within_s:.0f} s for {what}")

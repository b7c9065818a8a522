"""Start a server as a process of its own, wait until it answers, account for its CPU time, and stop it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
START_LIMIT_S = 60.0


@dataclass
class Server:
    """A running server: where it listens and the processes that it is made of."""

    name: str
    port: int
    path: str
    process: subprocess.Popen[bytes]
    start_s: float
    """Seconds from the start of the process to the first answer."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """What `resident_mib` saw last."""

    @property
    def url(self) -> str:
        """Where its work is asked for."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    def cpu_seconds(self) -> dict[str, float]:
        """Return user + system seconds so far, by kind of process."""
        spent: dict[str, float] = {}
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                kind = _kind(process, root)
                spent[kind] = spent.get(kind, 0.0) + times.user + times.system
        return spent

    def resident_mib(self) -> dict[str, float]:
        """Return each process's resident memory in MiB, by kind and number."""
        root = psutil.Process(self.process.pid)
        members = [root, *root.children(recursive=True)]
        return {f"{_kind(p, root)} {i}": p.memory_info().rss / 2**20 for i, p in enumerate(members, 1)}


def _kind(process: psutil.Process, root: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    if "engine" in words:
        return "engine"
    if process.pid == root.pid:
        return "parent"
    return "gunicorn" if "gunicorn" in words else "server"


@contextlib.contextmanager
def running(name: str, command: list[str], path: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Run `command` with `{port}` filled in until the block ends; its output is shown only when it fails."""
    port = free_port()
    settings = dict(os.environ) | (environment or {})
    settings = {key: value.replace("{port}", str(port)) for key, value in settings.items()}
    words = [word.replace("{port}", str(port)) for word in command]
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen(words, cwd=ROOT, env=settings, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(name, port, process, log)
            yield Server(name, port, path, process, time.monotonic() - began)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
            if process.poll() is None:
                process.kill()


def gunicorn(app: str, workers: int, threads: int) -> list[str]:
    """Return the command that serves `app` under plain gunicorn settings."""
    options = ["--workers", str(workers), "--worker-class", "gthread", "--threads", str(threads), "--keep-alive", "60"]
    return [sys.executable, "-m", "gunicorn", *options, "--bind", "127.0.0.1:{port}", "--log-level", "error", app]


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(name: str, port: int, process: subprocess.Popen[bytes], log: object) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
            return
        except urllib.error.HTTPError as error:
            if error.code == 404:  # a peer without a readiness endpoint answers, which is enough
                return
        except OSError:
            pass
        time.sleep(0.1)
    log.seek(0)  # type: ignore[attr-defined]
    sys.exit(f"{name} did not start:\n{log.read().decode(errors='replace')[-4000:]}")  # type: ignore[attr-defined]

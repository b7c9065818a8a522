"""The real service as a process, for tests whose claim is about the server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers: where it is, its process, and the file that its log goes to."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        """host:port, as clients of other protocols want it."""
        return self.url.partition("//")[2]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def serving(store: Path, default_model: str, *, wait_s: float = 60.0, **settings: object) -> Iterator[Running]:
    """Run `python -m service serve` until the block ends, and check that it went with exit code 0."""
    port = free_port()
    given = {"store": store, "default_model": default_model, "port": port, "device": "cpu", "warmup_s": 0.3, **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CLEARSIGHT_")}
    environment |= {f"CLEARSIGHT_{name.upper()}": str(value) for name, value in given.items()}
    with tempfile.TemporaryDirectory(prefix="clearsight-test-") as folder:
        log = Path(folder, "log")
        environment.setdefault("CLEARSIGHT_RUNTIME", folder)
        with open(log, "wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"], cwd=ROOT, env=environment, stderr=sink, stdout=sink
            )
        scheme = "https" if "tls_certificate" in settings else "http"
        running = Running(f"{scheme}://127.0.0.1:{port}", process, log)
        try:
            _await_ready(running, wait_s)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        assert code == 0, log.read_text()[-4000:]


def _status(url: str) -> int:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=unchecked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _await_ready(running: Running, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    pause = threading.Event()
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(OSError):
            if _status(f"{running.url}/readyz") == 200:
                return
        pause.wait(0.05)
    raise AssertionError(f"the service did not become ready:\n{running.log.read_text()[-4000:]}")

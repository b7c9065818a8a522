"""The parent of a service: it owns the port, keeps the engine and gunicorn alive, and owns the order of a drain."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog

from service.children import start_child
from service.descriptors import allow_connections
from service.instance import Instance
from service.keeper import Keeper
from service.logs import configure_logs
from service.settings import EXIT_SETTINGS, Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.parent"))

GUNICORN_CONFIGURATION = Path(__file__).resolve().parent.parent / "deploy" / "gunicorn.conf.py"
SOCKET = "CLEARSIGHT_SOCKET"
"""How the parent tells gunicorn the number of the listening socket; not a setting."""
REPLACES = "CLEARSIGHT_REPLACES"
"""How the parent tells a gunicorn that it replaces one that died; not a setting."""
_MOST_FAILURES = 5
_ADVICE = "raise the limit of open files (ulimit -n, or nofile of the container), or lower CLEARSIGHT_CONNECTIONS"
_STEADY_S = 10.0
"""gunicorn is restarted when it dies; this many deaths within this many seconds of life each end the service."""


class Parent:
    """Runs one service until it is told to stop, or until it cannot go on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._events: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._gunicorn: subprocess.Popen[bytes] | None = None
        self._draining = False

    def run(self) -> int:
        """Serve; return 0 after a drain, else the exit code of what failed."""
        configure_logs(self.settings)
        try:
            listener = listen(self.settings.host, self.settings.port)
        except OSError as error:
            where = f"{self.settings.host}:{self.settings.port}"
            sys.stderr.write(f"clearsight: CLEARSIGHT_PORT: cannot listen on {where}: {error.strerror}\n")
            return EXIT_SETTINGS
        for number, event in ((signal.SIGTERM, "stop"), (signal.SIGINT, "stop"), (signal.SIGHUP, "renew")):
            signal.signal(number, self._put(event))
        possible = allow_connections(self.settings.connections)
        if possible < self.settings.connections:
            log.warning("connections.limited", wanted=self.settings.connections, possible=possible, advice=_ADVICE)
        instance = Instance.create(self.settings.runtime)
        instance.introduce(os.getpid(), listener.getsockname()[1])
        try:
            return self._serve(instance, listener)
        finally:
            shutil.rmtree(instance.folder, ignore_errors=True)

    def _serve(self, instance: Instance, listener: socket.socket) -> int:
        code = probe_device(self.settings)
        if code:
            return code
        keeper = None
        if not self.settings.embedded:
            keeper = Keeper(self.settings, instance, lambda code: self._events.put(("give up", code)))
            keeper.start()
        os.environ[SOCKET] = str(listener.fileno())
        gunicorn = threading.Thread(target=self._keep_gunicorn, args=(listener,), daemon=True)
        gunicorn.start()
        code = self._follow()
        self._drain(instance, keeper)
        return code

    def _follow(self) -> int:
        """Wait until the service shall end; return its exit code."""
        while True:
            event, code = self._events.get()
            if event == "renew" and self._gunicorn is not None:
                log.info("workers.renewed")
                self._gunicorn.send_signal(signal.SIGHUP)
            elif event in ("stop", "give up"):
                return code

    def _keep_gunicorn(self, listener: socket.socket) -> None:
        """Start gunicorn on the parent's socket, and again when it dies: connections wait in the backlog meanwhile."""
        failures = 0
        while True:
            began = time.monotonic()
            command = [sys.executable, "-m", "gunicorn", "-c", str(GUNICORN_CONFIGURATION)]
            self._gunicorn = gunicorn = start_child(command, listener.fileno())
            code = gunicorn.wait()
            if self._draining:
                return
            failures = 0 if time.monotonic() - began > _STEADY_S else failures + 1
            log.error("gunicorn.ended", code=code, failures=failures)
            os.environ[REPLACES] = "1"
            if failures >= _MOST_FAILURES:
                self._events.put(("give up", 1))
                return

    def _drain(self, instance: Instance, keeper: Keeper | None) -> None:
        """Readiness falls, load balancers see it, gunicorn finishes, the engine finishes."""
        pause_s = 0.0 if instance.draining() else self.settings.drain_pause_s
        log.info("drain.begun", pause_s=pause_s)
        try:
            instance.begin_draining()
        except OSError as error:  # a full disk must not keep the service from ending in order
            log.warning("drain.unmarked", reason=error.strerror)
        threading.Event().wait(pause_s)
        self._draining = True
        gunicorn = self._gunicorn
        if gunicorn is not None and gunicorn.poll() is None:
            gunicorn.terminate()
            try:
                gunicorn.wait(timeout=self.settings.drain_s + 5.0)
            except subprocess.TimeoutExpired:
                log.error("drain.timed_out", after_s=self.settings.drain_s)
                gunicorn.kill()
        if keeper is not None:
            keeper.stop()
        log.info("drain.done")

    def _put(self, event: str) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._events.put((event, 0))

        return handle


def listen(host: str, port: int) -> socket.socket:
    """Open the port that every gunicorn of this service accepts on. Raises `OSError` when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    listener.set_inheritable(True)
    return listener


def probe_device(settings: Settings) -> int:
    """Under `cuda!`, judge the device before anything starts; return 0 or the exit code."""
    if settings.device != "cuda!":
        return 0
    return subprocess.run([sys.executable, "-m", "service.engine.probe"], check=False).returncode

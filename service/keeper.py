"""Keeps one engine process alive: starts it, listens to its pulse, replaces it when it is dead or hung."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import zmq

from service.children import start_child
from service.instance import Instance
from service.ipc import wire
from service.settings import EXIT_DEVICE, EXIT_SETTINGS, Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.parent"))

_PULSE_S = 1.0
_FIRST_PULSE_S = 60.0
"""An engine that is starting has this long to answer its first ping."""
_STEADY_S = 60.0
"""An engine that lived this long is restarted at once when it dies."""
_LONGEST_DELAY_S = 15.0


class Keeper:
    """Runs the engine in a process of its own for as long as the service lives."""

    def __init__(self, settings: Settings, instance: Instance, give_up: Callable[[int], None]) -> None:
        self.settings = settings
        self.started = threading.Event()
        """Set when the first engine has looked at the store, which includes judging the device."""
        self._instance = instance
        self._give_up = give_up
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Start the first engine."""
        self._thread.start()

    def stop(self) -> None:
        """Let the engine finish what it holds, then end it."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.terminate()
            try:
                child.wait(timeout=self.settings.drain_s + 2.0)
            except subprocess.TimeoutExpired:
                child.kill()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        attempt = 0
        for number in itertools.count(1):
            if self._stopping.is_set():
                return
            began = time.monotonic()
            self._child = child = start_child([sys.executable, "-m", "service.engine", str(number)])
            log.info("engine.started", pid=child.pid, start=number)
            self._watch(child)
            code = child.wait()
            if self._stopping.is_set():
                return
            if code in (EXIT_DEVICE, EXIT_SETTINGS) and not self.started.is_set():
                self._give_up(code)
                return
            attempt = 0 if time.monotonic() - began > _STEADY_S else attempt + 1
            delay_s = 0.0 if attempt <= 1 else min(_LONGEST_DELAY_S, 0.25 * 2**attempt)
            log.error("engine.ended", pid=child.pid, code=code, restart_in_s=delay_s)
            self._stopping.wait(delay_s)

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Return when the child has ended; kill it when it stops answering or one batch takes too long."""
        context = zmq.Context(1)
        with context.socket(zmq.DEALER) as socket, _exit_of(child.pid) as exited:
            socket.linger = 0
            socket.reconnect_ivl = 50
            socket.connect(self._instance.engine_address)
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            if exited is not None:
                poller.register(exited, zmq.POLLIN)
            self._listen(child, socket, poller)
        context.term()

    def _listen(self, child: subprocess.Popen[bytes], socket: Any, poller: Any) -> None:
        heard_at, allowed_s = time.monotonic(), _FIRST_PULSE_S
        ping_at = 0.0
        while child.poll() is None:
            now = time.monotonic()
            if now >= ping_at:
                socket.send_multipart([b"0", wire.PING, b""])
                ping_at = now + _PULSE_S
            if any(ready is socket for ready, _ in poller.poll(max(1, int((ping_at - now) * 1000)))):
                heard_at, allowed_s = time.monotonic(), self.settings.hang_s
                self._feel(child, json.loads(socket.recv_multipart()[2]))
            elif time.monotonic() - heard_at > allowed_s:
                self._kill(child, f"no sign of life for {allowed_s:.0f} s")
                return

    def _feel(self, child: subprocess.Popen[bytes], pulse: dict[str, Any]) -> None:
        if pulse["started"]:
            self.started.set()
        if pulse["trouble"]:
            self._kill(child, pulse["trouble"])

    def _kill(self, child: subprocess.Popen[bytes], reason: str) -> None:
        log.error("engine.hung", pid=child.pid, reason=reason)
        child.kill()


@contextlib.contextmanager
def _exit_of(pid: int) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when the process ends; None where the system has no such thing."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)

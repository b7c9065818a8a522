"""The parent of a service: it starts gunicorn, owns the order of a drain, and leaves nothing behind."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import structlog

from service.children import start_child
from service.instance import Instance
from service.logs import configure_logs
from service.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.parent"))

GUNICORN_CONFIGURATION = Path(__file__).resolve().parent.parent / "deploy" / "gunicorn.conf.py"


class Parent:
    """Runs one service until it is told to stop or until gunicorn ends by itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop_requested = threading.Event()
        self._instance: Instance | None = None

    def run(self) -> int:
        """Serve; return 0 after a drain, or gunicorn's exit code when it ended by itself."""
        configure_logs(self.settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        self._instance = Instance.create(self.settings.runtime)
        try:
            return self._serve(self._instance)
        finally:
            shutil.rmtree(self._instance.folder, ignore_errors=True)

    def _serve(self, instance: Instance) -> int:
        gunicorn = start_child([sys.executable, "-m", "gunicorn", "-c", str(GUNICORN_CONFIGURATION)])
        ended = threading.Thread(target=self._await_end, args=(gunicorn,), daemon=True)
        ended.start()
        self.stop_requested.wait()
        if gunicorn.poll() is not None:
            log.error("gunicorn.ended", code=gunicorn.returncode)
            return gunicorn.returncode or 1
        return self._drain(instance, gunicorn)

    def _await_end(self, gunicorn: subprocess.Popen[bytes]) -> None:
        gunicorn.wait()
        self.stop_requested.set()

    def _drain(self, instance: Instance, gunicorn: subprocess.Popen[bytes]) -> int:
        log.info("drain.begun", pause_s=self.settings.drain_pause_s)
        instance.begin_draining()
        threading.Event().wait(self.settings.drain_pause_s)
        gunicorn.send_signal(signal.SIGTERM)
        try:
            gunicorn.wait(timeout=self.settings.drain_s + 5.0)
        except subprocess.TimeoutExpired:
            log.error("drain.timed_out", after_s=self.settings.drain_s)
            gunicorn.kill()
            gunicorn.wait()
        log.info("drain.done")
        return 0

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stop_requested.set()

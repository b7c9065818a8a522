"""Clients that keep a service busy while it is stopped, and what it logged meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime

import requests

from tests.containers.stack import JPEG, ROOT, Stack

PATIENT = JPEG | {"X-Request-Deadline-Ms": "60000"}
"""What is tested is that nothing is lost, not how fast a busy machine answers."""


class Load:
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
        """How many requests have ended."""
        return len(self.requests)

    def finish(self) -> None:
        """Wait until every client has met the end of the service."""
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


@contextlib.contextmanager
def follow_log(stack: Stack) -> Iterator[list[str]]:
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


def last_drain(log: list[str]) -> tuple[float, bool]:
    """Return when the service last began to drain, and whether it came to the end of it."""
    decoder = json.JSONDecoder()  # an engine may put the container's name before a line and colors around it
    events = [decoder.raw_decode(line, line.index("{"))[0] for line in log if '"drain.' in line]
    begun = max(place for place, event in enumerate(events) if event["event"] == "drain.begun")
    at = datetime.fromisoformat(events[begun]["timestamp"]).timestamp()
    return at, any(event["event"] == "drain.done" for event in events[begun:])

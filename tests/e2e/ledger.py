"""What clients were answered, what the service counted, and how far apart a fault may leave the two.

An answer is counted before it is sent, so nothing that a client received is uncounted unless a killed process took the
count with it, and what was counted and not received is at most the request that each broken connection held.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass

import psutil

from tests.e2e.running import Running
from tests.e2e.traffic import Report, Traffic

BROKEN = {"ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "ConnectionRefusedError"}


def broken(report: Report) -> int:
    """Count the requests whose connection ended without an answer."""
    return sum(report.statuses[name] for name in BROKEN)


def check_all_counted(counted: float, report: Report) -> None:
    """Nothing was killed that counts: every answer is there, and no more than the broken connections may have held."""
    assert report.answered <= counted <= report.answered + broken(report), f"{counted} counted, {report.statuses}"


@dataclass(frozen=True)
class Loss:
    """The moment at which an engine's process is lost: its totals go with it."""

    scraped: float
    """Answers to this traffic that the lost engine has told already, so they cannot come back."""
    answered: int
    """Answers that the clients had when it was lost."""

    def check(self, running: Running, traffic: Traffic) -> None:
        """The next engine counts every answer since, and of those before no more than the workers still held.

        An answer of each client may have been counted before the loss and received after it.
        """
        counted, answered = running.settled(), traffic.report.answered
        least = answered - self.answered - traffic.clients
        assert least <= counted <= answered - self.scraped, f"{counted} counted, {answered} answered, {self}"


@dataclass(frozen=True)
class Holding:
    """What one worker may hold that the engine does not know: its answers since it last brought its counts."""

    ports: frozenset[int]
    """The clients' ends of its connections."""
    since: float
    """When it was asked to bring them (monotonic seconds)."""

    @classmethod
    def of(cls, running: Running, worker: psutil.Process) -> Holding:
        """Ask the worker itself for `/metrics`, for which it brings what it has."""
        for _ in range(50):
            line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            try:
                line.connect()
                own = line.sock.getsockname()[1]
                since = time.monotonic()
                line.request("GET", "/metrics")
                assert line.getresponse().read()
                ports = frozenset(c.raddr.port for c in worker.net_connections("tcp") if c.raddr)
            finally:
                line.close()
            if own in ports:
                return cls(ports, since)
        raise AssertionError("the other worker took fifty connections")

    def check(self, counted: float, report: Report) -> None:
        """A killed worker takes the answers that it gave since then, at the most, and nobody else's."""
        taken = sum(1 for port, _, at in report.trail if port in self.ports and at >= self.since)
        missing = report.answered - counted
        assert -broken(report) <= missing <= taken, f"{missing} missing, {taken} may be, {report.statuses}"

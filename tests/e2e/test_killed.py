"""Processes that die or stop: what clients see, how long it lasts, and that nothing wrong is ever answered."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.running import Running, service, wait_for
from tests.e2e.traffic import Sample, Traffic

REFUSED = {"200", "503"}
BROKEN = {"ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "ConnectionRefusedError"}


def counts_what_came_after(running: Running, traffic: Traffic, known: int) -> None:
    """Check that a new engine counts what was answered under it; the totals before died with the old one."""
    counted, answered = running.settled(), traffic.report.answered
    assert traffic.good() - known <= counted <= answered, f"{known} known, {counted} counted, {answered} answered"


@pytest.fixture(scope="module")
def running(colors: tuple[Path, list[Sample]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service with two workers and an engine process, which must survive every test of this file."""
    with service(colors[0], tmp_path_factory.mktemp("killed"), workers=2, hang_s=4) as started:
        yield started


def test_only_the_engine_s_process_holds_onnxruntime(running: Running) -> None:
    def loaded(member: psutil.Process) -> bool:
        return "onnxruntime" in Path(f"/proc/{member.pid}/maps").read_text()

    assert len(running.workers) == 2
    assert not any(loaded(member) for member in running.family() if member.pid != running.engine.pid)
    assert loaded(running.engine)


def test_a_killed_engine_is_replaced_and_nothing_wrong_is_answered(running: Running, samples: list[Sample]) -> None:
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        before = running.engine.pid
        killed_at = time.monotonic()
        running.engine.kill()
        traffic.until(lambda: bool(traffic.report.statuses["503"]))
        traffic.until(running.ready, running.cold_s + 3)
        traffic.after(100)
        recovered_s = time.monotonic() - killed_at
        known = traffic.good()
        traffic.after(200)
    assert running.engine.pid != before
    counts_what_came_after(running, traffic, known)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= REFUSED
    assert traffic.report.longest_s < 5
    assert recovered_s < running.cold_s + 3
    assert running.metric("clearsight_engine_starts_total") == 2


def test_a_killed_worker_takes_only_its_own_connections_with_it(running: Running, samples: list[Sample]) -> None:
    start = running.settled()
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        known = traffic.good()
        victim = running.workers[0]
        victim.kill()
        traffic.after(300)
        wait_for(
            lambda: len(running.workers) == 2 and victim.pid not in [w.pid for w in running.workers], 20, "a worker"
        )
        traffic.after(200)
    broken = sum(count for status, count in traffic.report.statuses.items() if status in BROKEN)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {"200", *BROKEN}
    assert 0 < broken <= 2 * len(traffic._threads)
    missing = traffic.report.answered - (running.settled() - start)
    assert 0 <= missing <= known + len(traffic._threads), "what it had not brought when it was killed, and no more"


def test_a_killed_gunicorn_master_is_replaced_on_the_same_socket(running: Running, samples: list[Sample]) -> None:
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        master = running.master.pid
        running.master.kill()
        wait_for(lambda: {m.pid for m in running.masters()} - {master}, 20, "a new master")
        traffic.after(300)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {*REFUSED, *BROKEN}
    assert "ConnectionRefusedError" not in traffic.report.statuses


def test_a_stopped_engine_is_noticed_and_replaced(running: Running, samples: list[Sample]) -> None:
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        stopped = running.engine
        stopped_at = time.monotonic()
        stopped.send_signal(signal.SIGSTOP)
        wait_for(lambda: not psutil.pid_exists(stopped.pid) or stopped.status() == "zombie", 12, "its end")
        assert time.monotonic() - stopped_at < 10
        traffic.until(running.ready, running.cold_s + 5)
        known = traffic.good()
        traffic.after(200)
    counts_what_came_after(running, traffic, known)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= REFUSED
    assert traffic.report.longest_s < 5


def test_sighup_renews_the_workers_without_a_failed_request(running: Running, samples: list[Sample]) -> None:
    start = running.settled()
    before = {worker.pid for worker in running.workers}
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        psutil.Process(running.pid).send_signal(signal.SIGHUP)
        wait_for(lambda: not before & {worker.pid for worker in running.workers}, 30, "new workers")
        traffic.after(300)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {"200", "RemoteDisconnected", "ConnectionResetError"}
    closed = sum(traffic.report.statuses[name] for name in BROKEN)
    assert closed <= len(traffic._threads), "only idle connections may close under a client"
    wait_for(lambda: running.counted() - start == traffic.report.answered, 10, "as many counted as answered")


def test_sigterm_finishes_what_is_in_flight_and_exits_0(running: Running, samples: list[Sample]) -> None:
    family = running.family()
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        assert running.stop() == 0
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {"200", *BROKEN}
    assert not any(member.is_running() and member.status() != "zombie" for member in family)
    assert list(running.runtime.iterdir()) == []


def test_sigterm_loses_no_connection_that_was_not_accepted_yet(
    store: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Requests that lie in the backlog when the service is told to stop are answered like those in flight."""
    with service(store, tmp_path, workers=1) as running, contextlib.ExitStack() as waiting:
        worker = running.workers[0]
        worker.suspend()
        calls = [http.client.HTTPConnection("127.0.0.1", running.port, timeout=30) for _ in range(20)]
        for call, sample in zip(calls, samples, strict=False):
            waiting.callback(call.close)
            call.request("POST", "/predict", sample.data, {"Content-Type": "image/png"})
        psutil.Process(running.pid).send_signal(signal.SIGTERM)
        wait_for(lambda: _is_told_to_stop(worker), 10, "the worker to be told")
        worker.resume()
        assert [call.getresponse().status for call in calls] == [200] * 20
        assert running.stop() == 0


def _is_told_to_stop(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a process that is suspended."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(pending and int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_children_die_with_a_killed_parent(store: Path, samples: list[Sample], tmp_path: Path) -> None:
    with service(store, tmp_path, workers=2) as running:
        family = running.family()
        with Traffic(running.port, samples) as traffic:
            traffic.after(100)
            psutil.Process(running.pid).kill()
            _, alive = psutil.wait_procs(family, timeout=10)
        assert [member.pid for member in alive] == []
        assert traffic.report.wrong == []


def test_an_embedded_engine_comes_back_with_its_worker(store: Path, samples: list[Sample], tmp_path: Path) -> None:
    with service(store, tmp_path, workers=1) as running:
        assert running.children("service.engine") == []
        with Traffic(running.port, samples) as traffic:
            traffic.after(300)
            running.workers[0].kill()
            traffic.until(lambda: sum(traffic.report.statuses[name] for name in BROKEN) > 0)
            recovered_s = traffic.after(100)
        assert recovered_s < running.cold_s + 3
        assert traffic.report.wrong == []
        assert set(traffic.report.statuses) <= {*REFUSED, *BROKEN}
        assert running.stop() == 0

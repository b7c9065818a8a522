"""Processes that die or stop: what clients see, how long it lasts, and that nothing wrong is ever answered."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.e2e.bounds import SLACK_S
from tests.e2e.ledger import BROKEN, Holding, Loss, broken, check_all_counted
from tests.e2e.running import Running, ended, service, wait_for
from tests.e2e.traffic import Sample, Traffic

REFUSED = {"200", "503"}
STARTS = "clearsight_engine_starts_total"
SLOW_DISK = Path(__file__).parent / "slowdisk"


@pytest.fixture(scope="module")
def running(colors: tuple[Path, list[Sample]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service with two workers and an engine process, which must survive every test of this file."""
    with service(colors[0], tmp_path_factory.mktemp("killed"), workers=2) as started:
        yield started


def test_only_the_engine_s_process_holds_onnxruntime(running: Running) -> None:
    def loaded(member: psutil.Process) -> bool:
        return "onnxruntime" in Path(f"/proc/{member.pid}/maps").read_text()

    assert len(running.workers) == 2
    assert not any(loaded(member) for member in running.family() if member.pid != running.engine.pid)
    assert loaded(running.engine)


def test_a_killed_engine_is_replaced_and_nothing_wrong_is_answered(running: Running, samples: list[Sample]) -> None:
    start, starts, before = running.settled(), running.metric(STARTS), running.engine
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        scraped = running.counted() - start
        killed_at = time.monotonic()
        before.kill()
        loss = Loss(scraped, traffic.report.answered)
        traffic.until(lambda: running.ready() and running.metric(STARTS) == starts + 1)
        recovered_s = time.monotonic() - killed_at
        traffic.after(300)
    assert running.engine.pid != before.pid
    loss.check(running, traffic)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= REFUSED
    assert traffic.report.longest_s < 5
    assert traffic.report.statuses["503"] > 0
    assert recovered_s < cold_load_s(running) + 3 + SLACK_S


def cold_load_s(running: Running) -> float:
    """Return how long the first engine took from its start until its model was loaded, as the log says."""
    moments = [running.logged(event)[0]["timestamp"] for event in ("engine.started", "model.loaded")]
    began, loaded = map(datetime.fromisoformat, moments)
    return (loaded - began).total_seconds()


def test_a_killed_worker_takes_only_its_own_connections_with_it(running: Running, samples: list[Sample]) -> None:
    start = running.settled()
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        victim = running.workers[0]
        holding = Holding.of(running, victim)
        traffic.after(50)
        victim.kill()
        traffic.after(300)
        wait_for(
            lambda: len(running.workers) == 2 and victim.pid not in [w.pid for w in running.workers], 20, "a worker"
        )
        traffic.after(200)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {"200", *BROKEN}
    assert 0 < broken(traffic.report) <= 2 * traffic.clients
    holding.check(running.settled() - start, traffic.report)


def test_a_killed_gunicorn_master_is_replaced_on_the_same_socket(running: Running, samples: list[Sample]) -> None:
    """Its workers bring their counts before they end, so nothing is missing."""
    start = running.settled()
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        orphans, master = running.workers, running.master.pid
        running.master.kill()
        wait_for(lambda: {m.pid for m in running.masters()} - {master}, 20, "a new master")
        traffic.after(300)
        wait_for(lambda: not any(orphan.is_running() for orphan in orphans), 40, "the end of its workers")
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {*REFUSED, *BROKEN}
    assert "ConnectionRefusedError" not in traffic.report.statuses
    check_all_counted(running.settled() - start, traffic.report)


def test_a_stopped_engine_is_noticed_and_replaced(running: Running, samples: list[Sample]) -> None:
    start, starts, stopped = running.settled(), running.metric(STARTS), running.engine
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        scraped = running.counted() - start
        stopped_at = time.monotonic()
        stopped.send_signal(signal.SIGSTOP)
        loss = Loss(scraped, traffic.report.answered)
        wait_for(lambda: ended(stopped), 12, "its end")
        assert time.monotonic() - stopped_at < 10
        traffic.until(lambda: running.ready() and running.metric(STARTS) == starts + 1)
        assert time.monotonic() - stopped_at < 10 + cold_load_s(running) + SLACK_S
        traffic.after(200)
    loss.check(running, traffic)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= REFUSED
    assert traffic.report.longest_s < 5
    assert any("no sign of life" in line["reason"] for line in running.logged("engine.hung"))


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
    assert broken(traffic.report) <= traffic.clients, "only idle connections may close under a client"
    wait_for(lambda: running.counted() - start == traffic.report.answered, 10, "as many counted as answered")


def test_sigterm_finishes_what_is_in_flight_and_exits_0(running: Running, samples: list[Sample]) -> None:
    """Nobody can ask a service that has ended, so the last line of its engine says what was answered."""
    start, family = running.settled(), running.family()
    with Traffic(running.port, samples) as traffic:
        traffic.after(300)
        assert running.stop() == 0
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {"200", *BROKEN}
    assert all(map(ended, family))
    assert list(running.runtime.iterdir()) == []
    check_all_counted(running.told() - start, traffic.report)


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
        assert running.told() == 20


def _is_told_to_stop(process: psutil.Process) -> bool:
    """Whether SIGTERM waits for a process that is suspended."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return bool(pending and int(pending[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_children_die_with_a_killed_parent_and_a_successor_counts_from_zero(
    store: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Whoever supervises the service starts it again on the same port; its clients have only seen connections fail."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    with service(store, folders[0], workers=2) as running, contextlib.ExitStack() as later:
        family = running.family()
        with Traffic(running.port, samples) as traffic:
            traffic.after(100)
            psutil.Process(running.pid).kill()
            _, alive = psutil.wait_procs(family, timeout=10)
            assert [member.pid for member in alive] == []
            ended_at = time.monotonic()
            successor = later.enter_context(service(store, folders[1], workers=2, port=running.port))
            traffic.after(200)
        assert successor.settled() == traffic.report.answered_on_connections_since(ended_at)
    assert traffic.report.wrong == []
    assert set(traffic.report.statuses) <= {*REFUSED, *BROKEN}


def test_an_embedded_engine_comes_back_with_its_worker(store: Path, samples: list[Sample], tmp_path: Path) -> None:
    with service(store, tmp_path, workers=1) as running:
        assert running.children("service.engine") == []
        with Traffic(running.port, samples) as traffic:
            traffic.after(300)
            killed_at = time.monotonic()
            running.workers[0].kill()
            ended_at = time.monotonic()
            traffic.until(lambda: broken(traffic.report) > 0)
            recovered_s = traffic.after(100)
        assert recovered_s < running.cold_s + 3
        assert traffic.report.wrong == []
        assert set(traffic.report.statuses) <= {"200", *BROKEN}, "it accepts when it can answer"
        least, most = (traffic.report.answered_on_connections_since(moment) for moment in (ended_at, killed_at))
        assert least <= running.settled() <= most
        assert running.stop() == 0


def test_sighup_in_one_worker_ends_one_engine_and_starts_another(
    store: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """The new worker accepts when its models are loaded: connections wait meanwhile.

    The old engine writes its totals, the new one counts from zero, and together they counted every answer.
    """
    with service(store, tmp_path, SLOW_DISK, workers=1) as running:
        before = {worker.pid for worker in running.workers}
        with Traffic(running.port, samples) as traffic:
            traffic.after(200)
            psutil.Process(running.pid).send_signal(signal.SIGHUP)
            wait_for(lambda: not before & {worker.pid for worker in running.workers}, 40, "a new worker")
            renewed = running.workers
            traffic.until(running.ready, 40)
            traffic.after(200)
        assert traffic.report.wrong == []
        assert set(traffic.report.statuses) <= {"200", "RemoteDisconnected", "ConnectionResetError"}
        assert broken(traffic.report) <= traffic.clients, "only idle connections may close under a client"
        assert traffic.report.longest_s > 2, "else the stand-in for a slow disk has done nothing"
        assert running.workers == renewed, "the master has killed a worker that was loading"
        check_all_counted(running.told() + running.settled(), traffic.report)
        assert running.stop() == 0
        check_all_counted(running.told(), traffic.report)


def test_a_killed_gunicorn_master_of_one_worker_is_replaced_by_one_that_can_answer(
    store: Path, samples: list[Sample], tmp_path: Path
) -> None:
    with service(store, tmp_path, workers=1) as running:
        orphan, master = running.workers[0], running.master
        with Traffic(running.port, samples) as traffic:
            traffic.after(200)
            master.kill()
            wait_for(lambda: not orphan.is_running() and running.ready(), 40, "the next worker")
            traffic.after(200)
        assert traffic.report.wrong == []
        assert set(traffic.report.statuses) <= {"200", "RemoteDisconnected", "ConnectionResetError"}
        check_all_counted(running.told() + running.settled(), traffic.report)
        assert running.stop() == 0

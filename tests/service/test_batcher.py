"""The batcher's laws, on a network whose batches are released by hand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.engine.batcher import Batcher
from service.engine.devices import CPU, Device
from service.engine.network import Network
from service.engine.plan import Curve, Plan
from service.engine.work import AwaitedWork, BatchReport, Lane
from service.errors import ClientGone, DeadlineExceeded, DeadlineUnreachable, InferenceFailed, QueueFull

ACCELERATOR = Device("cpu", CPU.requested, pads=False, splits=False)
POISON = 255


class GatedNetwork(Network):
    """Runs a batch when the gate is open; remembers every batch; fails on a poison row, and on all once it is lost."""

    def __init__(self, device: Device = ACCELERATOR) -> None:
        self.device = device
        self.provider = "cuda"
        self.lost = False
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def run(self, rows: Any, outputs: Any, alone: bool = False) -> dict[str, Any]:
        self.batches.append(rows[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.gate.wait(10)
        if self.lost or (rows == POISON).any():
            raise ValueError("poison")
        return {"probabilities": rows[:, 0, 0, :1].astype(np.float32)}


class Bench:
    """A batcher with one runner unless told otherwise, and lanes that are made on demand."""

    def __init__(self, runners: int = 1, queue_images: int = 100) -> None:
        self.reports: list[BatchReport] = []
        self.batcher = Batcher(runners, queue_images, self.reports.append)
        self.batcher.start()
        self.networks: list[GatedNetwork] = []

    def lane(self, cap: int = 8, seconds: float = 0.001, device: Device = ACCELERATOR) -> Lane:
        network = GatedNetwork(device)
        plan = Plan(Curve({1: seconds}), cap, self.batcher.runners, 1, 100.0, seconds)
        lane = Lane(SimpleNamespace(name="m", version=1), network, plan)  # type: ignore[arg-type]
        lane.cost_s = seconds
        self.batcher.open(lane)
        self.networks.append(network)
        return lane

    def submit(self, lane: Lane, value: int, deadline_s: float = 60.0, images: int = 1, **extra: Any) -> AwaitedWork:
        rows = np.full((images, 1, 1, 1), value, np.uint8)
        work = AwaitedWork(rows, ("probabilities",), time.monotonic() + deadline_s, **extra)
        self.batcher.submit(lane, [work])
        return work

    def occupy(self, lane: Lane) -> AwaitedWork:
        """Start one batch and return once it is inside the network."""
        work = self.submit(lane, 0)
        assert lane.network.entered.acquire(timeout=5)  # type: ignore[attr-defined]
        return work


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for network in bench.networks:
        network.gate.set()
    bench.batcher.stop()


def record_order(lane: Lane, order: list[int]) -> None:
    """Open the gate, take two milliseconds a batch, and note which value ran."""
    network = opened(lane)
    run = network.run

    def slow(rows: Any, outputs: Any, alone: bool = False) -> dict[str, Any]:
        order.append(int(rows[0, 0, 0, 0]))
        time.sleep(0.002)
        return run(rows, outputs)

    network.run = slow  # type: ignore[method-assign]


def opened(lane: Lane) -> GatedNetwork:
    network: Any = lane.network
    network.gate.set()
    return network


def test_an_idle_engine_runs_a_lone_image_at_once(bench: Bench) -> None:
    lane = bench.lane()
    network = opened(lane)
    assert bench.submit(lane, 7).wait(5).outputs["probabilities"][0, 0] == 7
    assert network.batches == [[7]]


def test_while_the_engine_is_busy_the_queue_becomes_the_next_batch_and_each_waiter_gets_its_row(bench: Bench) -> None:
    lane = bench.lane()
    first = bench.occupy(lane)
    works = [bench.submit(lane, value) for value in range(1, 6)]
    network = opened(lane)
    first.wait(5)
    assert [work.wait(5).outputs["probabilities"][0, 0] for work in works] == [1, 2, 3, 4, 5]
    assert network.batches == [[0], [1, 2, 3, 4, 5]]
    assert [r.reason for r in bench.reports] == ["idle", "queued"]


def test_a_batch_never_exceeds_its_cap_and_images_are_counted_not_requests(bench: Bench) -> None:
    lane = bench.lane(cap=4)
    bench.occupy(lane)
    works = [bench.submit(lane, 1, images=3), bench.submit(lane, 2, images=2), bench.submit(lane, 3)]
    network = opened(lane)
    for work in works:
        work.wait(5)
    assert network.batches == [[0], [1, 1, 1], [2, 2, 3]]


def test_a_poison_item_fails_alone(bench: Bench) -> None:
    lane = bench.lane()
    bench.occupy(lane)
    good, bad, other = bench.submit(lane, 1), bench.submit(lane, POISON), bench.submit(lane, 3)
    opened(lane)
    assert good.wait(5).outputs["probabilities"][0, 0] == 1
    assert other.wait(5).outputs["probabilities"][0, 0] == 3
    with pytest.raises(InferenceFailed):
        bad.wait(5)
    assert bench.batcher.lost == ""


def test_a_device_that_runs_nothing_any_more_is_told_from_a_poison_item(bench: Bench) -> None:
    lane = bench.lane()
    opened(lane).lost = True
    with pytest.raises(InferenceFailed):
        bench.submit(lane, 1).wait(5)
    assert "cuda runs nothing any more" in bench.batcher.lost


def test_expired_abandoned_and_orphaned_work_never_runs(bench: Bench) -> None:
    lane = bench.lane(seconds=0.0)
    bench.occupy(lane)
    expired = bench.submit(lane, 1, deadline_s=0.05)
    dropped = bench.submit(lane, 2)
    with pytest.raises(DeadlineExceeded):
        dropped.wait(0.0)
    (left, its_end), (here, other_end) = socket.socketpair(), socket.socketpair()
    with left, here, other_end:
        its_end.close()
        orphaned = bench.submit(lane, 3, client=left)
        kept = bench.submit(lane, 4, client=here)
        with pytest.raises(DeadlineExceeded):
            expired.wait(0.2)
        network = opened(lane)
        assert kept.wait(5).outputs["probabilities"][0, 0] == 4
        with pytest.raises(ClientGone):
            orphaned.wait(5)
    assert network.batches == [[0], [4]]


def test_a_full_queue_refuses_at_once_with_the_time_to_come_back() -> None:
    bench = Bench(queue_images=2)
    lane = bench.lane(seconds=0.5)
    bench.occupy(lane)
    bench.submit(lane, 1, images=2)
    with pytest.raises(QueueFull) as refusal:
        bench.submit(lane, 2)
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s > 0
    opened(lane)
    bench.batcher.stop()


def test_work_that_would_miss_its_deadline_is_refused_before_it_waits(bench: Bench) -> None:
    lane = bench.lane(seconds=0.5)
    bench.occupy(lane)
    for value in range(4):
        bench.submit(lane, value)
    with pytest.raises(DeadlineUnreachable):
        bench.submit(lane, 9, deadline_s=1.0)
    bench.submit(lane, 9, deadline_s=30.0)


def test_a_refused_deadline_says_when_it_can_be_met(bench: Bench) -> None:
    lane = bench.lane(seconds=0.5)
    bench.occupy(lane)
    for value in range(8):
        bench.submit(lane, value)
    with pytest.raises(DeadlineUnreachable) as refusal:
        bench.submit(lane, 9, deadline_s=1.0)
    assert 3 < (refusal.value.retry_after_s or 0) < 5, "4.75 s of work, and a fifth to spare, for a deadline of 1 s"


def test_a_flooded_model_does_not_starve_another(bench: Bench) -> None:
    flooded, other = bench.lane(cap=1), bench.lane(cap=1)
    order: list[int] = []
    for lane in (flooded, other):
        record_order(lane, order)
    works = [bench.submit(flooded, 1) for _ in range(30)]
    works += [bench.submit(other, 2) for _ in range(5)]
    for work in works:
        work.wait(10)
    last_of_other = max(index for index, value in enumerate(order) if value == 2)
    assert last_of_other < 20


def test_free_cores_share_the_queue_instead_of_one_taking_all_of_it() -> None:
    bench = Bench(runners=2)
    lane = bench.lane(device=CPU)
    blocked = [bench.occupy(lane), bench.occupy(lane)]
    works = [bench.submit(lane, value) for value in range(1, 5)]
    network = opened(lane)
    for work in [*blocked, *works]:
        work.wait(5)
    assert max(len(batch) for batch in network.batches[2:]) <= 4
    assert sorted(value for batch in network.batches[2:] for value in batch) == [1, 2, 3, 4]
    bench.batcher.stop()


def test_closing_a_lane_waits_for_what_it_holds(bench: Bench) -> None:
    lane = bench.lane()
    first = bench.occupy(lane)
    assert not bench.batcher.close(lane, 0.05)
    opened(lane)
    first.wait(5)
    assert bench.batcher.close(lane, 5)


def start_waiting(bench: Bench, lane: Lane, value: int, answers: dict[int, float], names: dict[int, str]) -> Any:
    """Ask for one image in a thread that may be called to run batches; return the thread once its work is queued."""
    network: Any = lane.network
    run = network.run

    def noted(rows: Any, outputs: Any, alone: bool = False) -> dict[str, Any]:
        names[int(rows[0, 0, 0, 0])] = threading.current_thread().name
        return run(rows, outputs)

    network.run = noted

    def ask() -> None:
        work = AwaitedWork(np.full((1, 1, 1, 1), value, np.uint8), ("probabilities",), time.monotonic() + 60)
        bench.batcher.run_or_submit(lane, work)
        answers[value] = float(work.wait(60).outputs["probabilities"][0, 0])

    queued = lane.images
    thread = threading.Thread(target=ask, name=f"caller-{value}", daemon=True)
    thread.start()
    while lane.images == queued:
        time.sleep(0.001)
    return thread


def test_the_first_waiter_runs_the_next_batch_for_all_who_wait(bench: Bench) -> None:
    lane = bench.lane()
    bench.occupy(lane)
    answers: dict[int, float] = {}
    names: dict[int, str] = {}
    callers = [start_waiting(bench, lane, value, answers, names) for value in (1, 2, 3)]
    opened(lane)
    for caller in callers:
        caller.join(10)
    assert answers == {1: 1.0, 2: 2.0, 3: 3.0}
    assert names[1] == "caller-1"
    assert bench.submit(lane, 9).wait(5).outputs["probabilities"][0, 0] == 9


def test_a_waiter_that_gives_up_leaves_the_next_batch_to_a_runner(bench: Bench) -> None:
    lane = bench.lane()
    bench.occupy(lane)
    impatient = AwaitedWork(np.full((1, 1, 1, 1), 1, np.uint8), ("probabilities",), time.monotonic() + 60)
    bench.batcher.run_or_submit(lane, impatient)
    patient = bench.submit(lane, 2)
    with pytest.raises(DeadlineExceeded):
        impatient.wait(0.0)
    opened(lane)
    assert patient.wait(5).outputs["probabilities"][0, 0] == 2
    assert bench.submit(lane, 3).wait(5).outputs["probabilities"][0, 0] == 3

"""Work-conserving batching: an idle engine runs what is there at once, a busy one lets the queue become the next batch.

No timer adds latency to a lone request. Several lanes (one per served version) share the runners by start-time fair
queueing (Goyal, Vin and Chen 1996): the waiting lane that has received least runs next.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from service.departure import departed
from service.engine.work import AwaitedWork, BatchReport, Lane, Work
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineUnavailable,
    InferenceFailed,
    QueueFull,
)
from service.port import Answer

_PATIENCE_S = 0.02
"""Work that waited longer than this is asked whether its client is still there."""
_CAUTION = 1.2
"""Batches vary: a deadline counts as met when the prediction, made so much longer, still meets it."""


class Batcher:
    """Queues work per lane and runs it on a fixed number of runners; bounded, fair, and without polling."""

    def __init__(self, runners: int, queue_images: int, report: Callable[[BatchReport], None]) -> None:
        self.runners = runners
        self.queue_images = queue_images
        self._report = report
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._busy = 0
        self._lanes: list[Lane] = []
        self._started: dict[int, float] = {}
        self._places = itertools.count()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self.lost = ""
        """Why the device cannot run anything any more, once it cannot."""

    def start(self) -> None:
        """Start the runner threads."""
        for index in range(self.runners):
            thread = threading.Thread(target=self._serve, name=f"runner-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Refuse what waits and end the runners; batches in progress finish."""
        with self._lock:
            self._stopping = True
            left = [work for lane in self._lanes for work in lane.waiting]
            for lane in self._lanes:
                lane.waiting.clear()
                lane.images = 0
            self._work.notify_all()
        for work in left:
            work.finish(None, EngineUnavailable("The engine is shutting down.", retry_after_s=1.0))
        for thread in self._threads:
            thread.join(timeout=10.0)

    # Lanes

    def open(self, lane: Lane) -> None:
        """Let a lane receive work."""
        with self._lock:
            lane.used_s = min((other.used_s for other in self._lanes if other.waiting), default=0.0)
            self._lanes.append(lane)

    def close(self, lane: Lane, timeout_s: float) -> bool:
        """Take no new work for a lane and wait until its last batch is done; False if that took too long."""
        with self._lock:
            lane.closed = True
            done = self._drained.wait_for(lambda: not lane.waiting and not lane.running, timeout_s)
            if lane in self._lanes:
                self._lanes.remove(lane)
            return done

    # Admission

    @property
    def queued(self) -> int:
        """Images waiting over all lanes."""
        return sum(lane.images for lane in self._lanes)

    def spare(self) -> bool:
        """Return whether nothing waits and a runner is free."""
        return self._busy < self.runners and not self.queued

    def wait_ahead_s(self, lane: Lane | None) -> float:
        """Predict how long a new image of this lane waits before it runs.

        Under fair queueing a lane waits for its own backlog and for at most as much of every other lane's; while all
        runners are busy, half a batch is left of what runs.
        """
        lanes = self._lanes
        own = lane.backlog_s if lane else max((other.backlog_s for other in lanes), default=0.0)
        ahead = own + sum(min(own, other.backlog_s) for other in lanes if other is not lane)
        residual = lane.batch_s / 2 if lane and self._busy >= self.runners else 0.0
        return ahead / self.runners + residual

    def admit(self, lane: Lane, images: int, deadline: float) -> None:
        """Refuse work that would end beyond its deadline or does not fit into the queue.

        Raises `QueueFull` or `DeadlineUnreachable` with the seconds after which a retry is likely to be admitted.
        """
        if self._stopping or lane.closed:
            raise EngineUnavailable("The engine is shutting down.", retry_after_s=1.0)
        if self._busy < self.runners and not lane.images:
            return
        wait_s, queued = self.wait_ahead_s(lane), self.queued
        if queued + images > self.queue_images and lane.images + images > self.queue_images / max(1, len(self._lanes)):
            raise QueueFull(
                f"{queued} images are waiting; at most {self.queue_images} may.",
                retry_after_s=max(wait_s / 2, lane.batch_s),
            )
        end_s = _CAUTION * (wait_s + max(lane.batch_s, images * lane.cost_s / self.runners))
        late_s = end_s - (deadline - time.monotonic())
        if late_s > 0:
            raise DeadlineUnreachable(
                f"The answer would take about {end_s:.3f} s, which is after the deadline.",
                retry_after_s=max(late_s, lane.batch_s),
            )

    # Work

    def submit(self, lane: Lane, works: list[Work]) -> None:
        """Queue work of one request, all or nothing. Raises what `admit` does."""
        now = time.monotonic()
        with self._lock:
            self.admit(lane, sum(work.images for work in works), works[0].deadline)
            self._enqueue(lane, works, now)

    def run_or_submit(self, lane: Lane, work: AwaitedWork) -> None:
        """Run the work in the calling thread when a runner is free, which saves two hand-overs; else queue it.

        The caller must `wait` for the work next: it may be called to run a batch itself.
        """
        now = time.monotonic()
        with self._lock:
            self.admit(lane, work.images, work.deadline)
            work.arrived = now
            if self._busy >= self.runners or any(other.images for other in self._lanes):
                work.leads = True
                self._enqueue(lane, [work], now)
                return
            place = self._begin(lane, now)
            alone = self._busy == 1
        self._run(lane, [work], "idle", alone, place)

    def oldest_batch_s(self) -> float:
        """Return how long the oldest batch in progress has been running, in seconds."""
        started = list(self._started.values())
        return time.monotonic() - min(started) if started else 0.0

    def _enqueue(self, lane: Lane, works: list[Work], now: float) -> None:
        for work in works:
            work.arrived = now
            lane.waiting.append(work)
            lane.images += work.images
        if self._busy < self.runners:
            self._work.notify(min(len(works), self.runners - self._busy))

    def _serve(self) -> None:
        reason = "idle"
        while True:
            with self._lock:
                while not (lane := self._next_lane()):
                    if self._stopping:
                        return
                    reason = "idle"
                    self._work.wait()
                works, full = self._take(lane)
                place = self._begin(lane, time.monotonic())
                alone = self._busy == 1 and not lane.waiting
            self._run(lane, works, "full" if full else reason, alone, place)
            reason = "queued"

    def _next_lane(self) -> Lane | None:
        """Return the waiting lane that has received the least runner time, if a runner may start."""
        if self._busy >= self.runners:
            return None
        waiting = [lane for lane in self._lanes if lane.waiting]
        return min(waiting, key=lambda lane: lane.used_s) if waiting else None

    def _take(self, lane: Lane) -> tuple[list[Work], bool]:
        """Take the next batch: up to the cap, or this runner's share where free runners are cores."""
        most = lane.plan.cap
        if lane.network.device.splits:
            most = min(most, -(-lane.images // self.runners))
        taken: list[Work] = []
        images = 0
        while lane.waiting and (not taken or images + lane.waiting[0].images <= most):
            work = lane.waiting.popleft()
            taken.append(work)
            images += work.images
        lane.images -= images
        return taken, images >= lane.plan.cap > 1

    def _begin(self, lane: Lane, now: float) -> int:
        """Take a runner's place and return its number."""
        self._busy += 1
        lane.running += 1
        place = next(self._places)
        self._started[place] = now
        return place

    def _run(self, lane: Lane, works: list[Work], reason: str, alone: bool, place: int) -> None:
        began = time.monotonic()
        try:
            ready = _still_wanted(works, began)
            if ready:
                self._run_together(lane, ready, reason, alone, began)
        finally:
            self._end(lane, time.monotonic() - began, place)

    def _end(self, lane: Lane, seconds: float, place: int) -> None:
        with self._lock:
            self._busy -= 1
            lane.running -= 1
            lane.used_s += seconds
            del self._started[place]
            if lane.closed and not lane.running and not lane.waiting:
                self._drained.notify_all()
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a place that became free to the first waiter itself, or to a runner where its thread cannot run it."""
        lane = self._next_lane()
        if lane is None:
            return
        first = lane.waiting[0]
        if not isinstance(first, AwaitedWork) or not first.leads:
            self._work.notify()
            return
        works, full = self._take(lane)
        place = self._begin(lane, time.monotonic())
        alone = self._busy == 1 and not lane.waiting
        if not first.call(partial(self._run, lane, works, "full" if full else "queued", alone, place)):
            self._return(lane, works[1:], place)

    def _return(self, lane: Lane, works: list[Work], place: int) -> None:
        """Put a batch back whose first waiter has just given up, for a runner to take."""
        self._busy -= 1
        lane.running -= 1
        del self._started[place]
        lane.waiting.extendleft(reversed(works))
        lane.images += sum(work.images for work in works)
        self._work.notify()

    def _run_together(self, lane: Lane, works: list[Work], reason: str, alone: bool, began: float) -> None:
        """Run one batch; when it fails, run its items one by one so that a poison item fails alone."""
        try:
            rows = works[0].rows if len(works) == 1 else np.concatenate([work.rows for work in works])
            outputs = works[0].outputs if len(works) == 1 else tuple(dict.fromkeys(o for w in works for o in w.outputs))
            assembled = time.monotonic()
            values = lane.network.run(rows, outputs, alone)
        except Exception as error:  # whatever the native layer raises, it concerns these rows only
            self._report(BatchReport(lane.served, reason, len(works), [], 0.0, 0.0, None, failed=True))
            if len(works) > 1:
                for work in works:
                    self._run_together(lane, [work], "retry", False, time.monotonic())
                return
            if lane.network.provider != "cpu" and not lane.network.answers(works[0].rows, works[0].outputs):
                self.lost = f"{lane.network.provider} runs nothing any more: {str(error).splitlines()[0][:200]}"
            works[0].finish(None, InferenceFailed(f"The network could not be run ({type(error).__name__})."))
            return
        done = time.monotonic()
        lane.learn(len(rows), done - began)
        start = 0
        for work in works:
            stop = start + work.images
            timings = {"queue": began - work.arrived, "assemble": assembled - began, "infer": done - assembled}
            mine = values if len(works) == 1 else {name: values[name][start:stop] for name in work.outputs}
            work.settle(Answer(lane.served, mine, timings, len(rows)))
            start = stop
        for work in works:
            work.flush()
        waits = [began - work.arrived for work in works]
        report = BatchReport(
            lane.served, reason, len(rows), waits, assembled - began, done - assembled, values.get("probabilities")
        )
        self._report(report)
        shadow = lane.shadow
        if shadow is not None and report.probabilities is not None:
            shadow.offer((rows, report.probabilities))


def _still_wanted(works: list[Work], now: float) -> list[Work]:
    """Refuse what expired or whose client has gone, and return the rest."""
    gone = departed(work.client for work in works if work.client and now - work.arrived > _PATIENCE_S)
    wanted = []
    for work in works:
        if work.dropped or work.deadline <= now:
            work.finish(None, DeadlineExceeded("The deadline passed while the images were waiting."))
        elif work.client in gone:
            work.finish(None, ClientGone("The client closed the connection while its images were waiting."))
        else:
            wanted.append(work)
    return wanted

"""Requests side by side in one thread: each is a greenlet that steps aside while it waits for its batch.

With a thread for each request the interpreter's lock changes hands at every system call of every request; here it does
not change hands at all. What computes or blocks for longer is offloaded to a thread, and the greenlet waits for it.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from greenlet import getcurrent, greenlet

P = ParamSpec("P")
R = TypeVar("R")

LOOK_S = 0.25
"""How often a waiting request looks whether its engine and its client are still there."""


class Beside(greenlet):
    """One request of a loop."""

    def __init__(self, loop: Loop, run: Callable[[], None]) -> None:
        super().__init__(run)
        self.loop = loop


class Loop:
    """What requests beside one another need of the thread that runs them all.

    `submit` gives a job to a thread, and `defer` runs a call in the loop's own thread, soon; the poller calls the data
    of a key that is ready with its file.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        submit: Callable[[Callable[[], None]], None],
        defer: Callable[..., None],
    ) -> None:
        self.poller = poller
        self.defer = defer
        self.looks: list[Callable[[], None]] = []
        """Called in the loop's thread every `LOOK_S`."""
        self._due: deque[Callable[[], None]] = deque()
        self._called = False
        self._at_end: list[Callable[[], None]] = []
        self._submit = submit
        self._hub = getcurrent()

    def run(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Begin a request; return when it is over or steps aside. The function raises nothing."""
        Beside(self, lambda: function(*args, **kwargs)).switch()

    def step_aside(self) -> Any:
        """Let others run until somebody switches to this greenlet; return what it is given."""
        return self._hub.switch()

    def hold(self, call: Callable[[], None]) -> None:
        """Keep a call for the loop's thread until `flush`; any thread may."""
        self._due.append(call)

    def at_end_of_turn(self, call: Callable[[], None]) -> None:
        """Make a call when everything that is ready now has had its turn."""
        self._at_end.append(call)

    def end_turn(self) -> None:
        """Make the calls that were kept for the end of the turn."""
        while self._at_end:
            self._at_end.pop()()

    def flush(self) -> None:
        """Let the loop's thread make the calls that are held: one hand-over for all of them."""
        if not self._called:
            self._called = True
            self.defer(self._make_calls)

    def _make_calls(self) -> None:
        self._called = False  # first: what is held from now on calls again
        while self._due:
            self._due.popleft()()

    def offload(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in a thread, and return or raise what it does."""
        me = getcurrent()

        def job() -> None:
            try:
                outcome: tuple[Any, BaseException | None] = (function(*args, **kwargs), None)
            except BaseException as error:
                outcome = (None, error)
            self.defer(me.switch, outcome)

        self._submit(job)
        result, error = self.step_aside()
        if error is not None:
            raise error
        return cast(R, result)


def current() -> Loop | None:
    """Return the loop that the caller's request runs in; None in a thread of its own."""
    here = getcurrent()
    return here.loop if isinstance(here, Beside) else None


def aside(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that blocks: in a thread, where the caller has others beside it."""
    loop = current()
    return loop.offload(function, *args, **kwargs) if loop else function(*args, **kwargs)

"""Which of two sessions answers a lone request: all threads together, or the one that carries the load."""

from __future__ import annotations

from collections import deque

_GAIN = 1.15
"""All threads must be this much faster: they keep every core busy."""
_KEPT = 5
_FIRST_TRIAL, _TRIAL_EVERY = 8, 128


class Faster:
    """Prefers the session that was faster of late, and now and then tries the other.

    A process that starts on a busy machine measures what the others do. Of the latest times the shortest counts: what
    else the machine does can only add to them.
    """

    def __init__(self, narrow_s: list[float], wide_s: list[float]) -> None:
        self._took = {False: deque(narrow_s, _KEPT), True: deque(wide_s, _KEPT)}
        self._calls = 0

    @property
    def wide(self) -> bool:
        """Whether all threads together are faster."""
        return min(self._took[True]) * _GAIN < min(self._took[False])

    @property
    def seconds(self) -> float:
        """What the faster one takes."""
        return min(self._took[self.wide])

    def pick(self) -> bool:
        """Say whether the next request is for all threads: soon after the start and later in 1 of 128 for the other."""
        self._calls += 1
        return self.wide != _is_trial(self._calls)

    def learn(self, wide: bool, seconds: float) -> None:
        """Remember what one image took."""
        self._took[wide].append(seconds)


def _is_trial(call: int) -> bool:
    doubled = call >= _FIRST_TRIAL and call & (call - 1) == 0
    return doubled or call % _TRIAL_EVERY == 0

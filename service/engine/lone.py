"""Which of two sessions answers a lone request: all threads together, or the one that carries the load."""

from __future__ import annotations

_GAIN = 1.15
"""All threads must be this much faster: they keep every core busy."""
_KEPT = 5
_FIRST_TRIALS, _TRIAL_EVERY = (8, 64), 256


class Faster:
    """Prefers the session that was faster of late, and now and then tries the other.

    A process that starts on a busy machine measures what the others do. Of the latest times the shortest counts: what
    else the machine does can only add to them. Any thread may call it.
    """

    def __init__(self, narrow_s: list[float], wide_s: list[float]) -> None:
        self._took = {False: tuple(narrow_s), True: tuple(wide_s)}
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
        """Say whether the next request is for all threads: two of the first, then 1 of 256 are for the slower one."""
        self._calls += 1
        trial = self._calls in _FIRST_TRIALS or self._calls % _TRIAL_EVERY == 0
        return self.wide != trial

    def learn(self, wide: bool, seconds: float) -> None:
        """Remember what one image took."""
        self._took[wide] = (*self._took[wide], seconds)[-_KEPT:]

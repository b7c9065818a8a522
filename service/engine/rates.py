"""How many requests a caller may make: token buckets, kept in the engine so that all workers share them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

MOST_CALLERS = 10_000
"""Callers remembered at once; the one that was quiet longest is forgotten first."""


class Rates:
    """One token bucket for each caller: `rate` requests a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str, now: float | None = None) -> float:
        """Take one token; return 0.0, or the seconds after which there will be one."""
        if not self.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        with self._lock:
            tokens, since = self._buckets.pop(caller, (float(self.burst), now))
            tokens = min(float(self.burst), tokens + (now - since) * self.rate)
            granted = tokens >= 1.0
            self._buckets[caller] = (tokens - 1.0 if granted else tokens, now)
            if len(self._buckets) > MOST_CALLERS:
                self._buckets.popitem(last=False)
        return 0.0 if granted else (1.0 - tokens) / self.rate

"""Places for requests in flight: counted, never waited for."""

from __future__ import annotations

import threading


class Tickets:
    """A number of places; `free` may be read at any time."""

    def __init__(self, places: int) -> None:
        self.free = places
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Take a place if there is one; never waits."""
        with self._lock:
            if self.free <= 0:
                return False
            self.free -= 1
            return True

    def release(self) -> None:
        """Give a place back."""
        with self._lock:
            self.free += 1

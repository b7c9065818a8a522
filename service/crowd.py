"""How many connections each worker holds, in memory that the workers of one gunicorn share.

The kernel wakes all of them for a new connection and the quickest accepts it. Of many workers on many cores some would
come to hold more connections than they can answer at once, and refuse, while others are idle.
"""

from __future__ import annotations

import mmap

SLOTS = 256
"""Workers that are counted; of more, two share a slot and the later one counts."""


class Crowd:
    """The counts, by slot; made before the workers are forked."""

    def __init__(self) -> None:
        self._held = memoryview(mmap.mmap(-1, 4 * SLOTS)).cast("I")

    def hold(self, worker: int, connections: int) -> None:
        """Say how many connections a worker has; `worker` is the number of its start."""
        self._held[worker % SLOTS] = connections + 1

    def leave(self, worker: int) -> None:
        """Forget a worker that has ended."""
        self._held[worker % SLOTS] = 0

    def least(self, besides: int) -> int | None:
        """Return the fewest connections of any other worker, or None where there is no other."""
        held = self._held.tolist()
        held[besides % SLOTS] = 0
        return min((count - 1 for count in held if count), default=None)


CROWD = Crowd()

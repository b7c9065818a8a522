"""How long fuzzing goes on: `make fuzz` multiplies the examples of an ordinary test run."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
LONG = FACTOR > 1


def examples(ordinary: int) -> int:
    """Return how many examples to try where a test run tries `ordinary`."""
    return ordinary * FACTOR

"""How long fuzzing goes on: `make fuzz` multiplies the examples of an ordinary test run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
LONG = FACTOR > 1
_HANG_MS = 10_000


def examples(ordinary: int) -> int:
    """Return how many examples to try where a test run tries `ordinary`."""
    return ordinary * FACTOR


def fuzzed(ordinary: int) -> settings:
    """Try so many examples; one that takes ten seconds is a hang, and a busy machine is no fault."""
    slow = [HealthCheck.too_slow]
    return settings(max_examples=examples(ordinary), deadline=_HANG_MS, suppress_health_check=slow)

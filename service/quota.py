"""How many cores this process may really use: its affinity and its control group, not the host's core count."""

from __future__ import annotations

import math
import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup/cpu.max")
_V1 = Path("/sys/fs/cgroup/cpu")


def available_cores(v2: Path = _V2, v1: Path = _V1) -> int:
    """Return the whole cores that the affinity mask and the cgroup quota (v2 `cpu.max`, v1 `cfs_quota_us`) allow."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(v2) or _quota_v1(v1)
    return max(1, min(affinity, math.floor(quota + 0.01) if quota else affinity))


def _quota_v2(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None

"""`python -m tests.e2e.soak MINUTES`: traffic without end, and a look at memory and file descriptors."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.e2e.running import Running, service
from tests.e2e.traffic import Traffic, make_samples
from tests.factory import publish_colors

GROWTH = 1.10


def footprint(running: Running) -> dict[str, tuple[int, int]]:
    """Return resident bytes and open descriptors of each process, by its role and process id."""
    found = {}
    for member in running.family():
        try:
            found[f"{member.pid} {' '.join(member.cmdline()[-2:])}"] = (member.memory_info().rss, member.num_fds())
        except psutil.Error:
            continue
    return found


def main(minutes: float) -> int:
    """Return 1 when a process grew by more than a tenth (or by more than 8 descriptors) after the first tenth."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    publish_colors(folder / "store")
    samples = make_samples(folder / "store")
    with service(folder / "store", folder, workers=2) as running, Traffic(running.port, samples) as traffic:
        threading.Event().wait(max(5.0, minutes * 6))
        before, began = footprint(running), time.monotonic()
        threading.Event().wait(minutes * 54)
        after, seconds = footprint(running), time.monotonic() - began
        grown = [
            name
            for name, (rss, descriptors) in after.items()
            if name in before and (rss > before[name][0] * GROWTH or descriptors > before[name][1] + 8)
        ]
    report = traffic.report
    for name, (rss, descriptors) in after.items():
        was = before.get(name, (0, 0))
        print(f"{name}: {was[0] / 2**20:.1f} -> {rss / 2**20:.1f} MiB, {was[1]} -> {descriptors} descriptors")  # noqa: T201
    print(f"{dict(report.statuses)} in {seconds:.0f} s, {len(report.wrong)} wrong, grown: {grown or 'nothing'}")  # noqa: T201
    return 1 if grown or report.wrong or set(report.statuses) != {"200"} else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0))

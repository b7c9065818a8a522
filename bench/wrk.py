"""Closed-loop load: wrk holds a number of connections busy and measures what it sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.inputs import Input

SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True)
class Sample:
    """What one wrk run saw."""

    per_second: float
    """Answers with a status of success; others are not counted."""
    failed: float
    """Share of the requests that were refused or lost."""
    p50_ms: float
    p99_ms: float


def require() -> None:
    """Exit with what to install where wrk is missing."""
    if shutil.which("wrk") is None:
        sys.exit("make bench needs wrk for its load: apt-get install wrk (Debian, Ubuntu) or brew install wrk")


def measure(url: str, image: Input | None, connections: int, seconds: float) -> Sample:
    """Load `url` for about `seconds`; POST the image, or GET without one. Raises when nothing succeeds."""
    with tempfile.NamedTemporaryFile() as body:
        environment = dict(os.environ)
        if image is not None:
            body.write(image.body)
            body.flush()
            environment |= {"BENCH_BODY": body.name, "BENCH_CONTENT_TYPE": image.content_type}
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{round(seconds)}s", "--timeout", "30s"]
        done = subprocess.run(
            [*command, "-s", str(SCRIPT), url], env=environment, check=True, capture_output=True, text=True
        )
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    failed = seen["refused"] + seen["lost"]
    succeeded = seen["requests"] - seen["refused"]
    if not succeeded:
        raise RuntimeError(f"{url}: {failed} failed of {seen['requests']} requests\n{done.stdout}")
    share = failed / (seen["requests"] + seen["lost"])
    return Sample(succeeded / seen["seconds"], share, seen["p50_ms"], seen["p99_ms"])

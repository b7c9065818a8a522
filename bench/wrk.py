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
    p50_ms: float
    p99_ms: float


def require() -> None:
    """Exit with what to install where wrk is missing."""
    if shutil.which("wrk") is None:
        sys.exit("make bench needs wrk for its load: apt-get install wrk (Debian, Ubuntu) or brew install wrk")


def measure(url: str, image: Input | None, connections: int, seconds: float) -> Sample:
    """Load `url` for about `seconds`; POST the image, or GET without one. Any failed request is an error."""
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
    if seen["failed"] or not seen["requests"]:
        raise RuntimeError(f"{url}: {seen['failed']} failed of {seen['requests']} requests\n{done.stdout}")
    return Sample(seen["requests"] / seen["seconds"], seen["p50_ms"], seen["p99_ms"])

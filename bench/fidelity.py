"""Is what training measured what production serves? Post every image and compare it with what `evaluate` wrote.

    python -m training evaluate exported/cifar10/1 --data DIR --variant fp32 --json answers.json
    python -m bench.fidelity --answers answers.json --url http://localhost:8000 --clients 16

Leaves with exit code 1 when a request failed, a top-1 differs, or a probability differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

_local = threading.local()


@dataclass(frozen=True)
class Expected:
    """An encoded image with the top-1 and the probabilities (in label order) that it must be answered with."""

    data: bytes
    top1: int
    probabilities: Sequence[float]


@dataclass
class Outcome:
    """What came of posting many images."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    top1_differs: int = 0
    largest_difference: float = 0.0

    def faithful(self, tolerance: float) -> bool:
        """Whether every request was answered, with the same top-1 and probabilities within the tolerance."""
        answered = self.statuses == Counter({200: self.sent})
        return self.sent > 0 and answered and not self.top1_differs and self.largest_difference <= tolerance


def post(url: str, data: bytes, classes: int, model: str | None = None) -> tuple[int, dict[str, Any]]:
    """Post one image and return the status and the reply; connections are kept per thread."""
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    parameters = {"top_k": str(classes)} | ({"model": model} if model else {})
    reply = _local.session.post(f"{url}/predict", data=data, params=parameters, timeout=60)
    return reply.status_code, reply.json()


def probabilities_of(reply: dict[str, Any], classes: int) -> list[float]:
    """Return a reply's probabilities in label order."""
    values = [0.0] * classes
    for prediction in reply["predictions"]:
        values[prediction["index"]] = prediction["probability"]
    return values


def compare(url: str, images: Iterable[Expected], clients: int, model: str | None = None) -> Outcome:
    """Post the images from `clients` concurrent clients and compare every answer."""
    outcome, lock = Outcome(), threading.Lock()

    def check(expected: Expected) -> None:
        status, reply = post(url, expected.data, len(expected.probabilities), model)
        with lock:
            outcome.sent += 1
            outcome.statuses[status] += 1
            if status != 200:
                return
            outcome.versions[reply["model"]["version"]] += 1
            outcome.top1_differs += reply["predictions"][0]["index"] != expected.top1
            served = probabilities_of(reply, len(expected.probabilities))
            difference = max(abs(a - b) for a, b in zip(served, expected.probabilities, strict=True))
            outcome.largest_difference = max(outcome.largest_difference, difference)

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(check, image) for image in images]:
            done.result()
    return outcome


def batch_sizes(url: str, model: str) -> tuple[int, int]:
    """Return (images, batches) that the engine has run for a model, from its metrics."""
    found = {"sum": 0.0, "count": 0.0}
    for line in requests.get(f"{url}/metrics", timeout=10).text.splitlines():
        for part in found:
            if line.startswith(f"clearsight_batch_size_{part}{{") and f'model="{model}"' in line:
                found[part] += float(line.rsplit(" ", 1)[1])
    return int(found["sum"]), int(found["count"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print what was seen, and return 0 only when all of it agrees."""
    parser = argparse.ArgumentParser(prog="python -m bench.fidelity", description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=Path, required=True, help="what `python -m training evaluate --json` wrote")
    parser.add_argument("--url", default="http://localhost:8000", help="the running service (http://localhost:8000)")
    parser.add_argument("--model", help="the model to ask (the service's default)")
    parser.add_argument("--clients", type=int, default=16, help="concurrent clients (16)")
    parser.add_argument("--limit", type=int, help="post only the first so many images")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference of a probability (1e-4)")
    options = parser.parse_args(arguments)
    wanted = json.loads(options.answers.read_text())["images"][: options.limit]
    images = (Expected(Path(one["origin"]).read_bytes(), one["top1"], one["probabilities"]) for one in wanted)
    model = options.model or requests.get(f"{options.url}/models", timeout=10).json()["default"]
    before = batch_sizes(options.url, model)
    outcome = compare(options.url, images, options.clients, model)
    ran, batches = (after - was for after, was in zip(batch_sizes(options.url, model), before, strict=True))
    print(f"sent {outcome.sent}, statuses {dict(outcome.statuses)}, versions {dict(outcome.versions)}")
    print(f"top-1 differs: {outcome.top1_differs}; largest difference: {outcome.largest_difference:.2e}")
    print(f"{ran} images in {batches} batches: {ran / max(1, batches):.2f} a batch")
    return 0 if outcome.faithful(options.tolerance) else 1


if __name__ == "__main__":
    sys.exit(main())

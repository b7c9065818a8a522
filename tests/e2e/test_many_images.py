"""Many images in one request to a busy service: a result or an error for each, in their order."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.e2e.running import service
from tests.factory import COLORS, color_image

STANDIN = Path(__file__).parent / "standin"
IMAGES = 64
REFUSALS = {"deadline.unreachable", "queue.full", "deadline.exceeded"}


def post(pool: urllib3.PoolManager, url: str, count: int, deadline_ms: int) -> tuple[int, dict[str, Any]]:
    fields = [("image", (str(i), color_image(COLORS[i % 3]))) for i in range(count)]
    headers = {"X-Request-Deadline-Ms": str(deadline_ms)}
    answer = pool.request("POST", url, fields=fields, headers=headers, timeout=30, retries=False)
    return answer.status, json.loads(answer.data)


@pytest.mark.parametrize("workers", [1, 2], ids=["embedded", "shared"])
def test_a_busy_service_answers_as_many_as_it_can(store: Path, tmp_path: Path, workers: int) -> None:
    """The stand-in takes 10 ms for an image, and others keep it busy: all 64 cannot be answered in 0.5 s, some can."""
    stop, mixed, statuses = threading.Event(), 0, set()
    with service(store, tmp_path, STANDIN, runners=1, max_batch=4, workers=workers) as running:
        pool, url = urllib3.PoolManager(maxsize=8), f"http://127.0.0.1:{running.port}/predict"

        def disturb() -> None:
            while not stop.is_set():
                post(pool, url, 4, 10_000)

        others = [threading.Thread(target=disturb) for _ in range(2)]
        for other in others:
            other.start()
        try:
            for _ in range(40):
                status, body = post(pool, url, IMAGES, 500)
                statuses.add(status)
                if status == 200:
                    mixed += check(body["results"])
                if mixed >= 3:
                    break
        finally:
            stop.set()
            for other in others:
                other.join()
    assert mixed >= 3, statuses
    assert statuses <= {200, 503, 504}


def check(results: list[dict[str, Any]]) -> bool:
    """Every image has its own label or a refusal, in order; return whether there were both."""
    assert len(results) == IMAGES
    answered = ["predictions" in one for one in results]
    for index, one in enumerate(results):
        if answered[index]:
            assert one["predictions"][0]["label"] == COLORS[index % 3]
        else:
            assert one["error"]["code"] in REFUSALS
    return any(answered) and not all(answered)

"""The instruments of `make bench` measure what they say."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import contest, limits, servers
from bench.inputs import Input, photograph, thumbnail
from bench.openloop import Generator, Outcome
from bench.spread import Spread
from tests.factory import publish_colors
from tests.loopback import answering

STALL_S = 0.4
IMAGE = Input("x", b"body", "image/png")


class Stalling(BaseHTTPRequestHandler):
    """Answers at once, but for the first request, during which it answers nobody; every tenth is refused."""

    protocol_version = "HTTP/1.1"
    seen = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += 1
        if type(self).seen == 1:
            threading.Event().wait(STALL_S)
        self.send_response(503 if type(self).seen % 10 == 0 else 200)
        self.send_header("Content-Length", "2")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server that serves one connection after the other."""
    Stalling.seen = 0
    server = HTTPServer(("127.0.0.1", 0), Stalling)
    server.request_queue_size = 128
    with answering(server):
        yield f"http://127.0.0.1:{server.server_port}/predict"


def test_open_loop_latency_counts_from_the_intended_departure(url: str) -> None:
    """Requests that were due while the server stalled carry the wait; none is left out of the count."""
    outcome = Generator(url, IMAGE).run(per_second=50, seconds=1)
    assert sum(outcome.statuses.values()) + outcome.unanswered == 50
    assert outcome.statuses[503] == 5
    assert outcome.unanswered == 0
    delayed = [latency for latency in outcome.latencies if latency > STALL_S / 4]
    assert len(delayed) >= 10, "the stall must show in every request that was due during it"
    assert max(outcome.latencies) >= STALL_S
    assert outcome.last_s >= 0.98, "the last request was due then"


def test_an_open_loop_rate_includes_what_queued_up() -> None:
    """100 requests in a second that took two seconds to answer are 50 a second."""
    assert Outcome(100.0, 1.0, Counter({200: 100}), last_s=2.0).answered_per_second == 50.0
    assert Outcome(100.0, 1.0, Counter({200: 90}), last_s=0.99).answered_per_second == 90.0


def test_a_ratio_is_formed_repeat_by_repeat() -> None:
    """A machine that slows down between repeats does not move the ratio."""
    ours, theirs = Spread.of([100.0, 50.0, 200.0]), Spread.of([50.0, 25.0, 100.0])
    assert ours.per(theirs).values == (2.0, 2.0, 2.0)
    assert ours.show(0) == "100 (50 to 200)"


@pytest.mark.parametrize("image", [photograph(500, 375), thumbnail(32)], ids=["photograph", "thumbnail"])
def test_inputs_are_what_their_names_say(image: Input) -> None:
    """The encoded image has the format and the size in its name."""
    opened = Image.open(io.BytesIO(image.body))
    assert image.name == f"{opened.format} {opened.width}x{opened.height}"


def test_every_peer_answers_what_the_service_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive app does the same work: same file, same pixels, same reply."""
    from bench.peers.naive import create_app
    from service.app import create_app as create_service
    from service.engine.engine import Engine, running
    from service.metrics import Metrics
    from service.settings import Settings
    from tests.factory import color_image

    publish_colors(tmp_path)
    for name, value in {"STORE": str(tmp_path), "MODEL": "colors", "VARIANT": "fp32"}.items():
        monkeypatch.setenv(f"BENCH_{name}", value)
    body = color_image("green", (20, 10))
    theirs = create_app().test_client().post("/predict", data=body, content_type="image/png").get_json()
    settings = Settings(store=tmp_path, default_model="colors", device="cpu", warmup_s=0.1)
    with running(Engine(settings, Metrics())) as engine:
        client = create_service(settings, engine).test_client()
        ours = client.post("/predict", data=body, content_type="image/png").get_json()
    for prediction in theirs["predictions"]:
        prediction["probability"] = pytest.approx(prediction["probability"], abs=1e-6)
    assert ours | {"request_id": ""} == theirs | {"request_id": ""}


def test_the_limit_of_onnxruntime_counts_images_not_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten batches of 8 in a second are 80 images, and a batch's CPU time is shared by its images."""
    graph = publish_colors(tmp_path).read("model.onnx")
    monkeypatch.setattr(limits, "_rate", lambda calls, seconds: (10.0, 0.004))
    rate = limits.onnxruntime_alone(graph, np.zeros((8, 8, 3), np.uint8), limits.Plan(1, 1, 8), 2, 0.05)
    assert rate.per_second.values == (80.0, 80.0)
    assert rate.cpu_ms.values == (0.5, 0.5)


def test_the_limit_is_taken_repeat_by_repeat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """5 ms of onnxruntime, 10 ms of decoding on two cores, and 2.5 ms of HTTP: 100 and 80 a second."""
    graph = publish_colors(tmp_path).read("model.onnx")
    alone, lone = [limits.Alone(graph, np.zeros((8, 8, 3), np.uint8), limits.Plan(1, 1, n)) for n in (2, 1)]
    limit = limits.Limit(alone, lone, lambda: None, cores=2)
    monkeypatch.setattr(limits, "_rate", lambda calls, seconds: (100.0, 0.01))  # batches of two, and decodings
    limit.turn(0.1)
    monkeypatch.setattr(limits, "_rate", lambda calls, seconds: (50.0, 0.02))  # a slower moment of the machine
    limit.turn(0.1)
    assert limit.per_second().values == pytest.approx((100.0, 50.0))
    assert limit.per_second(Spread.of([400.0, 400.0])).values == pytest.approx((80.0, 400 / 9))
    assert limit.decode_ms.values == pytest.approx((10.0, 20.0))
    assert limit.lone_ms.values == pytest.approx((20.0, 40.0))


def test_a_load_lasts_until_every_connection_has_had_its_answers() -> None:
    """What is under way at the end must be little beside what was answered."""
    assert contest.window(32, per_second=1200, least=3) == 3
    assert contest.window(32, per_second=36, least=3) == 11  # 384 answers
    assert contest.window(8, per_second=36, least=3) == 3


def test_a_server_settles_before_the_next_is_measured() -> None:
    """The turn is over only once its processes no longer work."""
    busy = "import time; end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", busy])
    try:
        began = time.monotonic()
        contest._settle(servers.Server("busy", 0, "/", process, 0.0))
        assert 1.0 < time.monotonic() - began < contest.IDLE_LIMIT_S
    finally:
        process.kill()
        process.wait()

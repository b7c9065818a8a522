"""The client and its command against the real service, and against a server that refuses first."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.client import Client, ClientError
from tests.factory import COLORS, color_image
from tests.loopback import answering
from tests.running import ROOT, Running, free_port

RED = color_image("red")
ANSWER = {
    "request_id": "a",
    "model": {"name": "m", "version": "1", "digest": "sha256:0", "variant": "fp32"},
    "predictions": [{"label": "red", "index": 0, "probability": 0.9}],
    "input": {"format": "PNG", "width": 8, "height": 8, "orientation": 1, "notes": []},
}

PROBLEM = {
    "type": "about:blank", "title": "", "status": 503, "code": "queue.full", "detail": "d", "request_id": "r",
}  # fmt: skip


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


def test_one_image_from_bytes_or_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    for image in (RED, tmp_path / "a.png"):
        answer = client.predict(image, top_k=2)
        assert answer.predictions[0].label == "red"
        assert len(answer.predictions) == 2
        assert answer.model.name == "colors"
    assert client.predict(RED, model="shades", version=1, embedding=True).embedding
    assert client.predict(RED, threshold=1.0).abstained


def test_many_images_keep_their_order_and_a_bad_one_fails_alone(client: Client) -> None:
    images = [color_image(color, (20 + i, 20)) for i, color in enumerate([*COLORS] * 8)]
    images[5] = b"junk"
    outcomes = list(client.predict_many(images))
    assert [o.image for o in outcomes] == images
    assert [o.answer.predictions[0].label if o.answer else None for o in outcomes[:5]] == [*COLORS, "red", "green"]
    assert outcomes[5].error is not None
    assert outcomes[5].error.code == "image.unsupported_format"
    assert sum(o.error is not None for o in outcomes) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_several_images_in_one_request(client: Client, count: int) -> None:
    together = client.predict_together([color_image(c) for c in COLORS[:count]])
    assert [r.predictions[0].label for r in together.results if r.predictions] == list(COLORS[:count])


def test_errors_carry_the_services_code(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.predict(RED, model="nobody")
    assert (caught.value.status, caught.value.code) == (404, "model.unknown")
    with pytest.raises(ClientError, match=r"client\.unreadable"):
        client.predict(Path("/nowhere/x.png"))


class Refusing(ThreadingHTTPServer):
    """Answers 503 with Retry-After a number of times, then 200; remembers what it saw."""

    def __init__(self, refusals: int, retry_after: str = "0") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals = refusals
        self.retry_after = retry_after
        self.deadlines_ms: list[int] = []
        self.peers: set[int] = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Refusing

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.deadlines_ms.append(int(self.headers["X-Request-Deadline-Ms"]))
        self.server.peers.add(self.client_address[1])
        refused = self.server.refusals > 0
        self.server.refusals -= 1
        problem = {
            "type": "about:blank",
            "title": "",
            "status": 503,
            "code": "queue.full",
            "detail": "d",
            "request_id": "r",
        }
        body = json.dumps(problem if refused else ANSWER).encode()
        self.send_response(503 if refused else 200)
        if refused:
            self.send_header("Retry-After", self.server.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[Refusing]:
    with answering(Refusing(*request.param)) as server:
        yield server


@pytest.mark.parametrize("refusing", [(2, "1")], indirect=True)
def test_a_refusal_is_retried_after_the_time_it_names_on_one_connection(refusing: Refusing) -> None:
    started = time.monotonic()
    with Client(f"http://127.0.0.1:{refusing.server_port}", deadline_s=20) as client:
        assert client.predict(RED).predictions[0].label == "red"
    assert 2.0 <= time.monotonic() - started < 10
    assert refusing.deadlines_ms == sorted(refusing.deadlines_ms, reverse=True)
    assert refusing.deadlines_ms[2] < 18_100
    assert len(refusing.peers) == 1


@pytest.mark.parametrize("refusing", [(99, "60")], indirect=True)
def test_no_retry_is_begun_that_would_miss_the_deadline(refusing: Refusing) -> None:
    started = time.monotonic()
    with (
        Client(f"http://127.0.0.1:{refusing.server_port}", deadline_s=5) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.predict(RED)
    assert (caught.value.code, caught.value.status) == ("queue.full", 503)
    assert time.monotonic() - started < 2
    assert len(refusing.deadlines_ms) == 1


def test_nobody_there_is_said_within_the_deadline() -> None:
    with (
        Client("http://127.0.0.1:9", deadline_s=0.5) as client,
        pytest.raises(ClientError, match=r"client\.unreachable"),
    ):
        client.predict(RED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    (root / "sub").mkdir()
    for color in COLORS:
        (root / "sub" / f"{color}.png").write_bytes(color_image(color))
    (root / "notes.txt").write_text("not an image")
    (root / "bad.jpg").write_bytes(b"junk")
    return root


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "service", "predict", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("kind", ["table", "csv", "json"])
def test_the_command_classifies_files_and_folders(server: Running, folder: Path, kind: str) -> None:
    done = command(folder, folder / "sub" / "red.png", "--url", server.url, "--format", kind)
    assert done.returncode == 1, done.stderr
    if kind == "table":
        lines = done.stdout.splitlines()
        assert lines[0].split() == ["file", "label", "probability", "error"]
        assert "image.unsupported_format" in lines[1]
        assert [line.split()[1] for line in lines[2:]] == ["blue", "green", "red", "red"]
    elif kind == "csv":
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert [row["label"] for row in rows] == ["", "blue", "green", "red", "red"]
        assert rows[0]["error"].startswith("image.unsupported_format")
    else:
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert rows[0]["error"]["code"] == "image.unsupported_format"
        assert rows[1]["predictions"][0]["label"] == "blue"


def test_the_commands_exit_codes(server: Running, folder: Path, tmp_path: Path) -> None:
    assert command(folder / "sub", "--url", server.url).returncode == 0
    assert command(tmp_path, "--url", server.url).returncode == 2


def test_a_service_that_cannot_be_asked_is_said_once_and_soon(opened: Running, folder: Path) -> None:
    for url, message in (
        (f"http://127.0.0.1:{free_port()}", "no service answers at http://127.0.0.1:"),
        (opened.url, "Send an API key"),
    ):
        done = command(folder, "--url", url)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert message in done.stderr

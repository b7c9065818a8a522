"""Clients that are slow, leave, or are too many."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.e2e.bounds import TIGHT
from tests.e2e.openloop import offer
from tests.e2e.running import ROOT, Running, service, wait_for
from tests.e2e.traffic import Sample, Traffic, check

THREADS = 24
STANDIN = Path(__file__).parent / "standin"
SHAPES = {"embedded": {"workers": 1}, "shared": {"workers": 2}}


class SlowClients:
    """Twice as many clients as there are threads: half a head, a byte now and then, gone in the middle of a body."""

    def __init__(self, port: int, count: int) -> None:
        self._stop = threading.Event()
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        self._thread = threading.Thread(target=self._drip)

    def __enter__(self) -> SlowClients:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 50000\r\n"
        for index, client in enumerate(self._sockets):
            client.sendall(head[:40] if index % 3 == 0 else head + b"\r\n" + b"x" * 100)
            if index % 3 == 2:
                client.close()
        self._thread.start()
        return self

    def _drip(self) -> None:
        while not self._stop.wait(0.2):
            for index, client in enumerate(self._sockets):
                if index % 3 == 1:
                    with contextlib.suppress(OSError):
                        client.send(b"x")

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        for client in self._sockets:
            client.close()


def at_rest(processes: list[psutil.Process]) -> bool:
    """Whether processes use no processor: workers that have started and wait for requests."""
    before = [process.cpu_times().user for process in processes]
    time.sleep(0.2)
    return all(process.cpu_times().user - spent < 0.02 for process, spent in zip(processes, before, strict=True))


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def running(
    request: pytest.FixtureRequest, colors: tuple[Path, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("slow")
    with service(colors[0], folder, threads=THREADS, reserved_threads=4, read_timeout_s=3, **request.param) as started:
        yield started


def test_clients_that_come_at_once_find_the_workers_that_have_room(
    colors: tuple[Path, list[Sample]], samples: list[Sample], tmp_path: Path
) -> None:
    """As many connections as tickets: whoever woke first would accept more than its share, and refuse half of them."""
    image = samples[0].data
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
    answered: list[bytes] = []
    with service(colors[0], tmp_path, workers=4, threads=12, reserved_threads=4) as running:
        wait_for(lambda: len(running.workers) == 4, 10, "four workers")
        wait_for(lambda: at_rest(running.workers), 10, "workers that have started")
        for _ in range(10):
            with contextlib.ExitStack() as stack:
                clients = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(32)
                ]
                for client in clients:
                    client.sendall(head.encode() + image)
                answered += [client.recv(12)[-3:] for client in clients]
    assert set(answered) <= {b"200", b"503"}
    assert answered.count(b"503") <= len(answered) / 10


def test_slow_clients_cost_the_others_little(running: Running, samples: list[Sample]) -> None:
    """The 99th percentile at most doubles: here with 0.02 s for a busy machine, under `make faults` without."""
    quiet_s, beside_s, answered, start = [], [], 0, running.settled()
    for _ in range(5 if TIGHT else 1):
        with Traffic(running.port, samples, clients=16) as quiet:
            quiet.after(400)
        with SlowClients(running.port, 2 * THREADS), Traffic(running.port, samples, clients=16) as beside:
            beside.after(400)
            assert running.get("/livez", timeout_s=1)[0] == 200
        assert beside.report.wrong == []
        assert dict(beside.report.statuses) == {"200": beside.good()}
        answered += quiet.report.answered + beside.report.answered
        quiet_s.append(quiet.report.p99())
        beside_s.append(beside.report.p99())
    assert running.settled() - start == answered
    assert np.median(beside_s) <= 2 * np.median(quiet_s) + (0.0 if TIGHT else 0.02), f"{quiet_s} {beside_s}"


def unmatched(running: Running) -> float:
    """Answers that were counted and had no route."""
    lines = [line for line in running.get("/metrics")[1].splitlines() if line.startswith("clearsight_requests_total{")]
    return sum(float(line.split()[-1]) for line in lines if 'route="unmatched"' in line)


def test_a_request_that_does_not_arrive_in_time_is_told_so(running: Running) -> None:
    before = unmatched(running)
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        client.settimeout(15)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (408, "request.timeout")
    wait_for(lambda: unmatched(running) == before + 1, 5, "the answer to be counted")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", {400}),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 100 + b"\r\n", {431}),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: brotli\r\n\r\n0\r\n\r\n", {400, 501}),
    ],
    ids=["garbage", "long-line", "many-headers", "unknown-coding"],
)
def test_what_is_not_http_is_told_so_and_counted(running: Running, request_bytes: bytes, status: set[int]) -> None:
    before = unmatched(running)
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(10)
        client.sendall(request_bytes)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["status"] in status, "gunicorn's parser in Python may be more precise than that in C"
    assert head.startswith(b"HTTP/1.1 %d " % problem["status"])
    assert problem["code"] == "request.malformed"
    assert problem["detail"].startswith("The request is not HTTP as it is read here: ")
    wait_for(lambda: unmatched(running) == before + 1, 5, "the answer to be counted")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\nabc", b"413"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"422 415"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
    ],
    ids=["too-large", "chunked", "get", "head", "http-1.0"],
)
def test_the_worker_speaks_http(running: Running, request_bytes: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(10)
        client.sendall(request_bytes)
        assert client.recv(4096).split(b" ", 2)[1] in status.split()


def test_requests_in_one_packet_are_answered_in_order(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(10)
        client.sendall(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


def test_predictions_in_one_packet_are_answered_in_order(running: Running, samples: list[Sample]) -> None:
    """Between other requests, and the last one's body comes late."""
    chosen = samples[:5]
    sent = b""
    for sample in chosen:
        sent += b"POST /predict?top_k=all HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        sent += f"Content-Length: {len(sample.data)}\r\n\r\n".encode() + sample.data
        sent += b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(10)
        client.sendall(sent[:-400])
        time.sleep(0.1)
        client.sendall(sent[-400:])
        bodies = [_body(client) for _ in range(2 * len(chosen))]
    assert [json.loads(body).get("status") for body in bodies[1::2]] == ["live"] * len(chosen)
    assert [check(sample, body)[1] for sample, body in zip(chosen, bodies[::2], strict=True)] == [""] * len(chosen)


def _body(client: socket.socket) -> bytes:
    """Read one answer of a kept connection, a byte at a time up to its body; it must be a 200."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    body = b""
    while len(body) < length:
        body += client.recv(length - len(body))
    return body


def test_a_client_that_does_not_read_its_answers_holds_nobody_up(running: Running, samples: list[Sample]) -> None:
    data = samples[0].data
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
    deaf = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
    for client in deaf:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(20_000):
                client.send(head.encode() + data)
    with Traffic(running.port, samples, clients=4) as traffic:
        traffic.after(200)
        assert running.get("/livez", timeout_s=2)[0] == 200
    assert traffic.report.wrong == []
    assert dict(traffic.report.statuses) == {"200": traffic.good()}
    for client in deaf:
        client.close()


def test_an_image_that_is_slow_to_decode_holds_nobody_up(running: Running, samples: list[Sample]) -> None:
    """A flat PNG of 49 megapixels is 150 kB, and each decode takes a worker's thread, not its main loop."""
    stream = io.BytesIO()
    Image.new("RGB", (7000, 7000), (9, 90, 200)).save(stream, "PNG")
    statuses: list[int] = []

    def slow() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", "/predict", stream.getvalue(), {"Content-Type": "image/png"})
        statuses.append(connection.getresponse().status)
        connection.close()

    with Traffic(running.port, samples, clients=4) as traffic:
        traffic.after(20)
        decoding = [threading.Thread(target=slow) for _ in range(2 * len(running.workers))]
        for thread in decoding:
            thread.start()
        time.sleep(0.1)
        before = traffic.good()
        decoding[0].join()
        meanwhile = traffic.good() - before
        for thread in decoding:
            thread.join()
    assert statuses == [200] * len(decoding)
    assert meanwhile >= 10


def test_a_body_that_asks_for_100_continue_gets_it(running: Running, samples: list[Sample]) -> None:
    data = samples[0].data
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.settimeout(10)
        client.sendall(head.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(data)
        answer = client.recv(65536)
    assert b"HTTP/1.1 200 OK" in answer


def test_draining_lets_readiness_fall_and_goes_on_answering(running: Running, samples: list[Sample]) -> None:
    """The last test of this service: it does not come back from it."""
    environment = {**running.environment, "CLEARSIGHT_PORT": str(running.port)}
    command = [sys.executable, "-m", "service", "drain", "--pause", "0"]
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    code, body = running.get("/readyz")
    assert (code, json.loads(body)["problems"][0]) == (503, "the service is draining")
    with Traffic(running.port, samples, clients=2) as traffic:
        traffic.after(20)
    assert dict(traffic.report.statuses) == {"200": traffic.good()}
    assert running.stop() == 0
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_four_times_the_capacity_is_refused_quickly_and_the_rest_is_served_in_time(
    store: Path, samples: list[Sample], tmp_path: Path, shape: dict[str, int]
) -> None:
    """The stand-in does 100 images a second; 400 arrive, whatever the service does, on 128 connections."""
    with service(store, tmp_path, STANDIN, runners=1, max_batch=4, **shape) as running:
        peak = offer(running.port, samples, rate=95, seconds=3)
        load = offer(running.port, samples, rate=400, seconds=6)
        assert running.get("/livez", timeout_s=2)[0] == 200
        assert running.settled() == peak.statuses.total() + load.statuses.total(), "also the refusals are counted"
    assert set(load.statuses) <= {200, 503}
    assert load.wrong == []
    assert load.unanswered == 0
    assert load.statuses[200] / load.seconds >= 0.85 * peak.statuses[200] / peak.seconds
    assert float(np.quantile(load.held_s, 0.99)) <= 5, (
        "1 s of work in flight, on a busy test machine; a queue without end gives 18 s"
    )
    assert load.slowest_probe_s < 2
    assert all(1 <= seconds <= 30 for seconds in load.retry_after_s)

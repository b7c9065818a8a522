"""HTTPS by two settings: the same worker, the same answers, and no thread for who does not finish a handshake."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from service.client import Client, ClientError
from service.departure import departed
from tests.factory import COLORS, color_image
from tests.images import encode
from tests.running import Running, serving

RED = color_image("red")
THREADS = 8


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    assert openssl, "openssl makes the certificate of this test"
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def secure(store: Path, certificate: tuple[Path, Path]) -> Iterator[Running]:
    with serving(
        store, "colors", workers=2, threads=THREADS, reserved_threads=2,
        tls_certificate=certificate[0], tls_key=certificate[1],
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def session(certificate: tuple[Path, Path]) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.verify, opened.trust_env = str(certificate[0]), False
        yield opened


def test_every_request_of_a_connection_is_answered(secure: Running, session: requests.Session) -> None:
    for color in [*COLORS] * 5:
        answer = session.post(f"{secure.url}/predict", data=color_image(color), timeout=10)
        assert answer.json()["predictions"][0]["label"] == color
    assert session.get(f"{secure.url}/nothing", timeout=10).status_code == 404


def test_large_bodies_and_many_clients(secure: Running, session: requests.Session) -> None:
    """Bodies of many TLS records, several connections at once, and a body that is refused before it is read."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    large = encode(Image.fromarray(noise), "PNG")
    assert len(large) > 4_000_000
    with ThreadPoolExecutor(6) as threads:
        url, trusted = f"{secure.url}/predict", session.verify
        answers = list(threads.map(lambda _: requests.post(url, data=large, verify=trusted, timeout=30), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["predictions"][0]["probability"] for answer in answers}) == 1
    chunks = iter([large] * 10)
    refused = session.post(f"{secure.url}/predict", data=chunks, timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (413, "request.too_large")


def test_a_client_that_does_not_trust_the_certificate_gets_nothing(secure: Running) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{secure.url}/livez", timeout=10)
    with Client(secure.url, deadline_s=2) as client, pytest.raises(ClientError, match=r"client\.unreachable"):
        client.predict(RED)


def test_unfinished_handshakes_hold_nobody_up(secure: Running, session: requests.Session) -> None:
    """Twice as many as there are threads: silent ones, half a hello, plain HTTP."""
    host, port = secure.address.split(":")
    with contextlib.ExitStack() as stack:
        for index in range(2 * 2 * THREADS):
            sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            sock.sendall([b"", b"\x16\x03\x01\x02\x00\x01", b"GET /livez HTTP/1.1\r\n\r\n"][index % 3])
        started = time.monotonic()
        for _ in range(8):
            assert session.post(f"{secure.url}/predict", data=RED, timeout=10).status_code == 200
        assert time.monotonic() - started < 5


def test_a_client_that_left_is_noticed_below_tls(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as wrapped:
        assert departed([wrapped]) == set()
        theirs.send(b"more")
        assert departed([wrapped]) == set()
    ours, theirs = socket.socketpair()
    with context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as wrapped:
        theirs.close()
        assert departed([wrapped]) == {wrapped}

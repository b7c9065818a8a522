"""Bad input over real HTTP: each gets the right answer or the right refusal at once, and the next request works."""

from __future__ import annotations

import io
import socket
import time
import zlib

import numpy as np
import pytest
import requests
from PIL import Image

from tests.factory import color_image
from tests.images import encode, png, quadrants, scans_bomb, solid, tiled_tiff, with_orientation
from tests.running import Running

RED = color_image("red", (64, 48))
JPEG = color_image("red", (64, 48), format="JPEG")


def animated() -> bytes:
    return encode(solid("RGB", (250, 0, 0)), "GIF", save_all=True, append_images=[solid("RGB", (0, 250, 0))])


def palette_with_alpha() -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 220, 20, 20])
    return encode(image, "PNG", transparency=b"\xff\xc0")


def rotated() -> bytes:
    """Red fills the left three quarters as stored, and the upper three quarters as displayed."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :48, 0] = 250
    pixels[:, 48:, 2] = 250
    return with_orientation(Image.fromarray(pixels), 6, "JPEG", quality=95)


# what is sent: (body, status, code or label)
CASES = {
    "empty body": (b"", 400, "image.empty"),
    "text": (b"hello", 415, "image.unsupported_format"),
    "html": (b"<!doctype html><p>404", 415, "image.unsupported_format"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], 422, "image.truncated"),
    "20,000 x 20,000 PNG": (png(20_000, 20_000, 8, 2, b""), 413, "image.too_many_pixels"),
    "PNG bomb": (png(9_000, 9_000, 8, 0, bytes(9_001 * 9_000)), 413, "image.too_many_pixels"),
    "PNG bomb in a text chunk": (
        png(1, 1, 8, 0, b"\0\0", (b"zTXt", b"k\0\0" + zlib.compress(bytes(200 << 20), 9))),
        422,
        "image.undecodable",
    ),
    "TIFF with a huge tile": (tiled_tiff(16, 60_000), 413, "image.too_many_pixels"),
    "JPEG of 5,000 scans": (scans_bomb(5_000), 422, "image.too_complex"),
    "21 MB": (b"\xff\xd8\xff" + bytes(21 * 2**20), 413, "image.too_large"),
    "body over the limit": (bytes(33 * 2**20), 413, "request.too_large"),
    "animated GIF": (animated(), 200, "red"),
    "CMYK JPEG": (encode(solid("CMYK", (0, 230, 230, 20)), "JPEG"), 200, "red"),
    "16-bit PNG": (encode(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"), 200, None),
    "palette PNG with alpha": (palette_with_alpha(), 200, "red"),
    "EXIF-rotated JPEG": (rotated(), 200, "red"),
    "1 x 1 PNG": (encode(solid("RGB", (250, 0, 0), (1, 1)), "PNG"), 200, "red"),
    "1 x 4,000 PNG": (encode(solid("RGB", (250, 0, 0), (1, 4_000)), "PNG"), 200, "red"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_image_gets_its_answer_or_its_refusal(server: Running, case: str) -> None:
    body, status, expected = CASES[case]
    started = time.monotonic()
    answer = requests.post(f"{server.url}/predict", data=body, timeout=20)
    assert time.monotonic() - started < 10
    found = answer.json()
    got = found.get("code") or found["predictions"][0]["label"]
    assert (answer.status_code, got if expected else None) == (status, expected), found
    if status != 200:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert found["request_id"] == answer.headers["X-Request-Id"]
    after = requests.post(f"{server.url}/predict", data=RED, timeout=10)
    assert after.json()["predictions"][0]["label"] == "red"


def test_the_answer_says_how_the_image_was_read(server: Running) -> None:
    def noted(body: bytes) -> dict[str, object]:
        return dict(requests.post(f"{server.url}/predict", data=body, timeout=10).json()["input"])

    assert noted(animated())["notes"] == ["animated: the first frame was read"]
    assert noted(rotated()) == {"format": "JPEG", "width": 32, "height": 64, "orientation": 6, "notes": []}
    assert noted(palette_with_alpha())["notes"] == ["transparency flattened on rgb(255, 255, 255)"]
    assert noted(encode(solid("RGB", (1, 2, 3), (4, 4)), "PNG"))["notes"] == ["upscaled from 4x4"]


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("", {"Content-Type": "text/plain"}, 415, "request.unsupported_media_type"),
        ("", {"Content-Type": "application/json"}, 400, "request.invalid"),
        ("", {"Content-Type": "multipart/form-data"}, 400, "request.invalid"),
        ("", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "request.invalid"),
        ("?model=nobody", {}, 404, "model.unknown"),
        ("?model=../../etc", {}, 404, "model.unknown"),
        ("?version=77", {}, 404, "version.unknown"),
        ("?top_k=0", {}, 400, "request.invalid"),
        ("?top_k=1e3", {}, 400, "request.invalid"),
        ("", {"X-Request-Deadline-Ms": "soon"}, 400, "request.invalid"),
        ("", {"Content-Encoding": "br"}, 415, "request.unsupported_media_type"),
    ],
)
def test_a_bad_request_is_refused_by_name(
    server: Running, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    refused = requests.post(f"{server.url}/predict{query}", data=RED, headers=headers, timeout=10)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert requests.post(f"{server.url}/predict", data=RED, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/predict", 405, "http.method_not_allowed"), ("GET", "/nothing/here", 404, "http.not_found")],
)
def test_a_wrong_path_or_method(server: Running, method: str, path: str, status: int, code: str) -> None:
    refused = requests.request(method, server.url + path, timeout=10)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


def test_many_images_each_get_their_own_answer_in_order(server: Running) -> None:
    bodies = [RED, b"", b"hello", color_image("blue"), JPEG[:400], color_image("green")]
    parts = [("image", (str(i), body)) for i, body in enumerate(bodies)]
    results = requests.post(f"{server.url}/predict", files=parts, timeout=20).json()["results"]
    found = [r["error"]["code"] if "error" in r else r["predictions"][0]["label"] for r in results]
    assert found == ["red", "image.empty", "image.unsupported_format", "blue", "image.truncated", "green"]
    over = requests.post(f"{server.url}/predict", files=[("image", RED)] * 65, timeout=20)
    assert (over.status_code, over.json()["code"]) == (413, "request.too_large")


def test_nothing_of_an_image_is_logged(server: Running) -> None:
    secret = b"do-not-log-this-text"
    for data in (encode(solid("RGB", (1, 2, 3)), "PNG") + secret, secret):
        requests.post(f"{server.url}/predict", data=data, timeout=10)
        requests.post(f"{server.url}/predict?model={secret.decode()}", data=data, timeout=10)
    assert secret.decode() not in server.log.read_text()


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    ],
    ids=["zeros", "version", "negative length", "two lengths", "bad chunk", "half a body"],
)
def test_broken_http_ends_its_own_connection_only(server: Running, raw: bytes) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        reply = io.BytesIO(sock.recv(65_536)).readline()
    assert not reply or 400 <= int(reply.split(b" ")[1]) < 500
    assert requests.post(f"{server.url}/predict", data=RED, timeout=10).status_code == 200


def test_quadrants_turn_with_every_orientation(server: Running) -> None:
    """The same picture stored in eight ways gets one answer."""
    upright = quadrants(64)
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    answers = []
    for orientation in range(1, 9):
        stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
        data = with_orientation(stored, orientation, "PNG")
        shown = requests.post(f"{server.url}/explain?view=pixels", data=data, timeout=10)
        answers.append(np.asarray(Image.open(io.BytesIO(shown.content))).tolist())
    assert all(answer == answers[0] for answer in answers)

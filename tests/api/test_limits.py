"""What a request may cost: bytes after decompression, frames, decode time; and nothing grows over many requests."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from service.operations import OPERATIONS
from tests.factory import color_image
from tests.fuzzing import FACTOR
from tests.images import encode, photo, scans_bomb, solid, tiff_of_frames
from tests.running import Running, serving

RED = color_image("red", (64, 48))
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
BODIES = sorted({(method, path) for (method, path), operation in OPERATIONS.items() if operation.body})
MANY = 100_000


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return {name: pack(bytes(100 * 2**20)) for name, pack in PACKERS.items()}


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize(("method", "path"), BODIES, ids=[f"{m} {p}" for m, p in BODIES])
def test_no_body_unpacks_to_more_than_the_limit(
    opened: Running, admin: dict[str, str], bombs: dict[str, bytes], method: str, path: str, encoding: str
) -> None:
    url = opened.url + path.replace("{model}", "colors").replace("{version}", "2")
    kinds = OPERATIONS[method, path].body
    for kind in kinds:
        boundary = "; boundary=x" if kind.startswith("multipart") else ""
        headers = {**admin, "Content-Encoding": encoding, "Content-Type": kind + boundary}
        refused = requests.request(method, url, data=bombs[encoding], headers=headers, timeout=20)
        assert refused.status_code == 413, refused.text
        assert "33554432 bytes once decompressed" in refused.text
        garbage = requests.request(method, url, data=b"not packed", headers=headers, timeout=20)
        assert (garbage.status_code, f"not valid {encoding}" in garbage.text) == (400, True)


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_compressed_request_is_read_in_every_form(opened: Running, admin: dict[str, str], encoding: str) -> None:
    url = f"{opened.url}/predict"
    form = requests.Request("POST", url, files=[("image", RED), ("image", b"junk")]).prepare()
    assert isinstance(form.body, bytes)
    for body, kind in ((RED, "image/png"), (form.body, form.headers["Content-Type"])):
        headers = {**admin, "Content-Encoding": encoding, "Content-Type": kind}
        found = requests.post(url, data=PACKERS[encoding](body), headers=headers, timeout=10).json()
        first = found["results"][0] if "results" in found else found
        assert first["predictions"][0]["label"] == "red"


def frames(kind: str) -> bytes:
    """A file whose second frame is repeated 100,000 times."""
    first, second = solid("RGB", (250, 0, 0)), solid("RGB", (0, 250, 0))
    if kind == "TIFF":
        return tiff_of_frames(MANY)
    data = encode(first, kind, save_all=True, append_images=[second])
    if kind == "GIF":
        at = data.rindex(b"\x21\xf9")
        return data[:at] + data[at:-1] * MANY + data[-1:]
    if kind == "PNG":
        at, end = data.rindex(b"fcTL") - 4, data.rindex(b"IEND") - 4
        return data[:at] + data[at:end] * MANY + data[end:]
    at = data.rindex(b"ANMF")
    data = data[:at] + data[at:] * MANY
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_file_of_100_000_frames_is_answered_like_one(server: Running, kind: str) -> None:
    data = frames(kind)
    timings = []
    for body in (encode(solid("RGB", (250, 0, 0)), kind), data):
        answer = requests.post(f"{server.url}/predict?top_k=1", data=body, timeout=20)
        assert answer.status_code == 200, answer.text
        decode = next(part for part in answer.headers["Server-Timing"].split(", ") if part.startswith("decode"))
        timings.append(float(decode.partition("=")[2]))
    assert answer.json()["input"]["notes"][0] == "animated: the first frame was read"
    assert timings[1] < timings[0] + 1000, timings


@pytest.fixture(scope="module")
def hasty(store: Path) -> Iterator[Running]:
    with serving(store, "colors", max_decode_s=0.3) as running:
        yield running


def test_a_slow_image_is_given_up_and_the_next_is_read(hasty: Running) -> None:
    """A JPEG of 16 million pixels in a hundred scans takes more than a second to decode; its time is 0.3 s.

    The comments spread the scans over many blocks, between which the time is looked at.
    """
    slow = scans_bomb(90, Image.new("RGB", (4000, 4000), (250, 0, 0)), pad=4000)
    refused = requests.post(f"{hasty.url}/predict", data=slow, timeout=20)
    assert (refused.status_code, refused.json()["code"]) == (422, "image.too_slow")
    assert "0.3 s that are allowed" in refused.json()["detail"]
    assert requests.post(f"{hasty.url}/predict", data=RED, timeout=10).status_code == 200


MIXED: list[tuple[str, dict[str, object]]] = [
    ("/predict", {"data": RED}),
    ("/predict?embedding=true&top_k=all", {"data": encode(photo(800, 600), "JPEG")}),
    ("/predict", {"files": [("image", RED), ("image", b"junk"), ("image", encode(photo(90, 80), "WEBP"))]}),
    ("/predict", {"data": RED[:60]}),
    ("/predict", {"data": gzip.compress(bytes(2**20)), "headers": {"Content-Encoding": "gzip"}}),
    ("/explain", {"data": RED}),
    ("/explain?method=occlusion&view=numbers", {"data": RED}),
    ("/v1/models/colors:predict", {"json": {"instances": ["%"]}}),
    ("/v2/models/colors/infer", {"data": b'{"inputs": []}' * 100}),
    ("/predictions/colors", {"data": encode(solid("CMYK", (0, 230, 230, 20)), "JPEG")}),
    ("/nothing", {"data": RED}),
]


def footprint(running: Running) -> dict[int, tuple[float, int]]:
    """Resident MiB and open descriptors of each process: parent, engine, gunicorn, workers."""
    parent = psutil.Process(running.process.pid)
    members = [parent, *parent.children(recursive=True)]
    return {one.pid: (one.memory_info().rss / 2**20, one.num_fds()) for one in members}


def send(running: Running, requests_: int) -> None:
    """Send the mixture from six clients at once. None is a fault of ours; a busy machine may refuse some."""

    def one(number: int) -> int:
        path, given = MIXED[number % len(MIXED)]
        return requests.post(running.url + path, timeout=30, **given).status_code  # type: ignore[arg-type]

    with ThreadPoolExecutor(6) as threads:
        statuses = Counter(threads.map(one, range(requests_)))
    assert statuses[500] == statuses[502] == 0, statuses
    assert statuses[200] > requests_ / 4, statuses


def test_nothing_grows(server: Running) -> None:
    """After a warm-up, no process gains more than 24 MiB or 32 descriptors over 600 (`make fuzz`: more) requests.

    Descriptors may rise a little: a worker has as many lines to the engine as threads worked at once.
    """
    send(server, 400)
    before = footprint(server)
    send(server, 600 * FACTOR)
    after = footprint(server)
    assert set(after) == set(before), "no process was replaced"
    for pid, (mebibytes, descriptors) in after.items():
        assert mebibytes < before[pid][0] + 24, (pid, before, after)
        assert descriptors <= before[pid][1] + 32, (pid, before, after)

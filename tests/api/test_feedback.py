"""Feedback is off until it has a folder; then labels and images lie where training reads them, within a quota."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from service.feedback import FeedbackFolder, FeedbackFull
from tests.factory import color_image
from tests.running import Running, serving

RED = color_image("red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "new"


@pytest.fixture(scope="module")
def open_server(store: Path, folder: Path) -> Iterator[Running]:
    with serving(store, "colors", feedback=folder, feedback_max_bytes=2000) as running:
        until = time.monotonic() + 30
        while time.monotonic() < until and not requests.get(f"{running.url}/startupz", timeout=10).ok:
            time.sleep(0.05)  # ready comes first: until all models were looked at, an unknown one may still be there
        yield running


def send(server: Running, **fields: object) -> requests.Response:
    return requests.post(f"{server.url}/feedback", json={"request_id": "abc", "label": "red", **fields}, timeout=10)


def test_it_is_off_unless_configured(server: Running) -> None:
    assert send(server).json()["code"] == "feedback.off"


def test_label_and_image_are_kept_once_and_then_the_quota_holds(open_server: Running, folder: Path) -> None:
    answer = requests.post(f"{open_server.url}/predict", data=RED, timeout=10).json()
    digest = hashlib.sha256(RED).hexdigest()
    image = base64.b64encode(RED).decode()
    for _ in range(2):
        stored = send(open_server, request_id=answer["request_id"], image=image)
        assert stored.status_code == 201
        assert stored.json() == {"request_id": answer["request_id"], "label": "red", "image": digest}
    assert (folder / "images" / "colors" / "red" / f"{digest}.png").read_bytes() == RED
    assert len(list((folder / "images").rglob("*.png"))) == 1
    records = [json.loads(path.read_text()) for path in (folder / "records" / "colors").glob("*.json")]
    assert len(records) == 2
    assert {(r["request_id"], r["model"], r["version"], r["label"], r["image"]) for r in records} == {
        (answer["request_id"], "colors", 2, "red", digest)
    }
    for _ in range(30):
        last = send(open_server)
        if last.status_code != 201:
            break
    assert (last.status_code, last.json()["code"]) == (507, "feedback.full")
    kept = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".png", ".json"))
    assert kept <= 2000
    assert requests.post(f"{open_server.url}/predict", data=RED, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"label": "dog"}, 400, "request.invalid"),
        ({"request_id": "a b"}, 400, "request.invalid"),
        ({"request_id": None}, 400, "request.invalid"),
        ({"model": "nobody"}, 404, "model.unknown"),
        ({"image": "%"}, 400, "request.invalid"),
        ({"image": base64.b64encode(b"junk").decode()}, 415, "image.unsupported_format"),
    ],
)
def test_wrong_feedback_leaves_nothing_behind(
    open_server: Running, folder: Path, fields: dict[str, object], status: int, code: str
) -> None:
    before = sorted(folder.rglob("*"))
    refused = send(open_server, **fields)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("label", ["../../etc", "a/b", ".hidden", "..", "cat & dog", "été"])
def test_no_label_leaves_its_folder(tmp_path: Path, label: str) -> None:
    keeper = FeedbackFolder(tmp_path / "kept", 10_000)
    keeper.keep("colors", 1, "abc", label, (RED, "PNG"))
    (image,) = (tmp_path / "kept" / "images").rglob("*.png")
    assert image.parent.parent == tmp_path / "kept" / "images" / "colors"
    assert {p.name for p in tmp_path.iterdir()} == {"kept"}


def test_the_quota_is_one_for_all_writers(tmp_path: Path) -> None:
    refused = threading.Semaphore(0)

    def write(number: int) -> None:
        keeper = FeedbackFolder(tmp_path, 3000)
        for step in range(10):
            try:
                keeper.keep("colors", 1, f"{number}-{step}", "red", None)
            except FeedbackFull:
                refused.release()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused.acquire(blocking=False)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.json")) <= 3000

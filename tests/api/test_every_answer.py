"""Every answer that the description promises is given by the real service, on every operation, and no other.

Left out are those of a service that is busy, broken or full: the tests of overload, faults and quotas ask for them.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
import requests

from service import schema as own
from service.operations import JSON, OPERATIONS
from service.v2 import schema as v2
from tests.factory import color_image
from tests.running import Running

LEFT_OUT = {429, 500, 503, 504, 507}
RAW = "application/octet-stream"
GOOD, JUNK = color_image("red"), b"no image at all"
DAMAGED = color_image("red", (64, 48), format="JPEG")[:400]
BOMB = gzip.compress(bytes(40 * 2**20))


def document(kind: object, data: bytes, model: str) -> dict[str, object]:
    """The body of an operation that takes images in JSON, holding this one."""
    text = base64.b64encode(data).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    return {
        own.ImagesBody: {"image": text},
        own.InstancesBody: {"instances": [{"b64": text}]},
        own.FeedbackBody: {"request_id": "a1", "label": "red", "image": text, "model": model},
        v2.InferRequest: {"inputs": [tensor]},
        own.IndexBody: {"ready": True},
        own.LoadBody: {},
    }[kind]  # type: ignore[index]


def body_of(kinds: dict[str, Any], data: bytes, model: str) -> dict[str, Any]:
    """What to send to an operation so that it reads this image."""
    if not kinds:
        return {}
    if JSON in kinds:
        text = json.dumps(document(kinds[JSON], data, model))
        return {"data": text, "headers": {"Content-Type": JSON}}
    return {"data": data, "headers": {"Content-Type": RAW}}


def address(path: str, model: str = "colors", version: str = "2") -> str:
    """A path with its names filled in; where it has none, the query names the model."""
    asset = "page.js" if model == "colors" else "nothing.js"
    name = asset if path.startswith("/assets") else model
    filled = path.replace("{model}", model).replace("{name}", name).replace("{version}", version).replace("{_}", "x")
    return filled if filled != path else f"{path}?model={model}"


def statuses(server: Running, keys: dict[str, str], method: str, path: str) -> set[int]:
    """Ask an operation in every way that is answered differently."""
    kinds = OPERATIONS[method, path].body
    model = "shades" if "repository/models" in path else "colors"
    version = "1" if model == "shades" else "2"
    key = {"X-API-Key": keys["both"]}

    def ask(where: str, given: dict[str, Any], **headers: str) -> int:
        given = {**given, "headers": {**given.get("headers", {}), **headers}}
        return requests.request(method, server.url + where, timeout=20, **given).status_code

    good, where = body_of(kinds, GOOD, model), address(path, model, version)
    asked = [
        ask(where, good, **key),
        ask(where, good),
        *(ask(where, good, **{"X-API-Key": keys[scope]}) for scope in ("predict", "admin")),
        ask(address(path, "nobody", version), body_of(kinds, GOOD, "nobody"), **key),
        ask(address(path, model, "x"), good, **key),
        ask(f"{where}{'&' if '?' in where else '?'}rate=x&top_k=x&view=x", good, **key),
        ask(where, good, **key, **{"X-Request-Deadline-Ms": "soon"}),
    ]
    if kinds:
        asked += [ask(where, body_of(kinds, data, model), **key) for data in (JUNK, DAMAGED)]
        kind = good["headers"]["Content-Type"]
        asked.append(ask(where, {"data": BOMB}, **key, **{"Content-Encoding": "gzip", "Content-Type": kind}))
        asked.append(ask(where, {"data": b"{"}, **key, **{"Content-Type": JSON}))
    return set(asked)


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS), ids=[f"{m} {p}" for m, p in sorted(OPERATIONS)])
def test_every_answer(opened: Running, keys: dict[str, str], method: str, path: str) -> None:
    described = requests.get(f"{opened.url}/openapi.json", timeout=10).json()["paths"][path][method]
    promised = {int(status) for status in described["responses"]}
    given = statuses(opened, keys, method, path)
    assert given <= promised, "an answer that is not described"
    assert promised - given <= LEFT_OUT, "an answer that is described and never given"

"""The other ways to ask: the V1 protocol, TorchServe's, and what the service says of its models."""

from __future__ import annotations

import base64

import pytest
import requests

from bundle.preprocess import preprocess
from tests.factory import COLORS, color_image, preprocessing
from tests.running import Running

FILES = {color: color_image(color, (32, 24)) for color in COLORS}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def probability(server: Running, data: bytes) -> float:
    answer = requests.post(f"{server.url}/predict", data=data, timeout=10).json()
    return float(answer["predictions"][0]["probability"])


@pytest.mark.parametrize(
    "instance",
    [
        lambda data: {"b64": b64(data)},
        lambda data: {"image": {"b64": b64(data)}},
        lambda data: {"image_bytes": {"b64": b64(data)}},
        lambda data: b64(data),
        lambda data: preprocess(data, preprocessing(8)).pixels.tolist(),
        lambda data: {"image": preprocess(data, preprocessing(8)).pixels.tolist()},
    ],
    ids=["b64", "named b64", "image_bytes", "string", "pixels", "named pixels"],
)
def test_v1_predict(server: Running, instance) -> None:  # type: ignore[no-untyped-def]
    for path in ("/v1/models/colors:predict", "/v1/models/colors/versions/2:predict"):
        body = {"instances": [instance(data) for data in FILES.values()]}
        found = requests.post(server.url + path, json=body, timeout=10).json()["predictions"]
        assert [p["label"] for p in found] == list(COLORS)
        assert found[0]["probability"] == pytest.approx(probability(server, FILES["red"]), abs=1e-6)
        assert found[0]["probability"] == max(found[0]["probabilities"])


def test_v1_status(server: Running) -> None:
    assert requests.get(f"{server.url}/v1/models", timeout=10).json() == {"models": ["colors", "shades"]}
    status = requests.get(f"{server.url}/v1/models/colors", timeout=10).json()
    assert status["ready"] is True
    assert {"version": "2", "state": "AVAILABLE", "status": {"error_message": ""}} in status["model_version_status"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/colors:predict", {"instances": []}, 400, "instances"),
        ("/v1/models/colors:predict", {}, 400, "instances: Field required"),
        ("/v1/models/colors:predict", {"instances": [{"b64": b64(FILES["red"])}, "%"]}, 400, r"instances[1]"),
        ("/v1/models/colors:predict", {"instances": [b64(b"junk")]}, 415, r"instances[0]: The bytes are not"),
        ("/v1/models/colors:predict", {"instances": [[[1, 2], [3]]]}, 400, "ragged"),
        ("/v1/models/colors:predict", {"instances": [[[1, 2]]]}, 400, "pixels [8, 8, 3]"),
        ("/v1/models/colors:predict", {"instances": [None] * 65}, 413, "65 instances; at most 64"),
        ("/v1/models/nobody:predict", {"instances": [1]}, 404, "nobody"),
    ],
)
def test_v1_errors(server: Running, path: str, body: object, status: int, message: str) -> None:
    refused = requests.post(server.url + path, json=body, timeout=10)
    assert refused.status_code == status
    assert list(refused.json()) == ["error"]
    assert message in refused.json()["error"]


@pytest.mark.parametrize("color", COLORS)
def test_torchserve(server: Running, color: str) -> None:
    url = f"{server.url}/predictions/colors"
    data = FILES[color]
    answers = [
        requests.post(url, data=data, timeout=10),
        requests.put(f"{url}/2", data=data, timeout=10),
        requests.post(url, files={"data": data}, timeout=10),
    ]
    assert all(answer.status_code == 200 for answer in answers)
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert next(iter(answers[0].json())) == color
    assert answers[0].json()[color] == pytest.approx(probability(server, data), abs=1e-6)


def test_torchserve_ping_and_errors(server: Running) -> None:
    assert requests.get(f"{server.url}/ping", timeout=10).json() == {"status": "Healthy"}
    refused = requests.post(f"{server.url}/predictions/nobody", data=FILES["red"], timeout=10)
    assert (refused.status_code, refused.json()["type"]) == (404, "model.unknown")
    assert requests.post(f"{server.url}/predictions/colors", data=b"x", timeout=10).json()["code"] == 415


def test_models_are_described(server: Running) -> None:
    listed = requests.get(f"{server.url}/models", timeout=10).json()
    assert listed["default"] == "colors"
    one = requests.get(f"{server.url}/models/colors", timeout=10).json()
    assert [v["version"] for v in one["versions"]] == ["1", "2"]
    detail = requests.get(f"{server.url}/models/colors/versions/2", timeout=10).json()
    assert detail["state"] == "ready"
    assert detail["role"] == "champion"
    assert detail["labels"] == list(COLORS)
    assert detail["preprocessing"]["resize_size"] == [8, 8]
    assert detail["explain"] is True


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/models/nobody", "model.unknown"),
        ("/models/nobody/versions/1", "model.unknown"),
        ("/models/colors/versions/7", "version.unknown"),
        ("/models/colors/versions/x", "request.invalid"),
    ],
)
def test_models_that_are_not_there(server: Running, path: str, code: str) -> None:
    refused = requests.get(server.url + path, timeout=10)
    assert refused.json()["code"] == code
    assert refused.status_code == (400 if code == "request.invalid" else 404)

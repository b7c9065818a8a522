from __future__ import annotations

import base64
import gzip
import io
import json
import zlib

import pytest
from flask.testing import FlaskClient

from tests.factory import COLORS, color_image

RED = color_image("red", (32, 24))


def test_a_raw_body_gets_the_reply_that_clients_rely_on(client: FlaskClient) -> None:
    answer = client.post("/predict", data=RED, content_type="image/png", headers={"X-Request-Id": "abc-1"})
    body = answer.get_json()
    assert answer.status_code == 200
    assert list(body) == ["request_id", "model", "predictions", "input"]
    assert body["request_id"] == answer.headers["X-Request-Id"] == "abc-1"
    assert body["model"]["name"] == "colors"
    assert body["model"]["version"] == "1"
    assert body["model"]["variant"] == "fp32"
    assert body["model"]["digest"].startswith("sha256:")
    assert body["predictions"][0]["label"] == "red"
    assert body["predictions"][0]["index"] == 0
    assert sum(p["probability"] for p in body["predictions"]) == pytest.approx(1.0, abs=1e-5)
    assert body["input"] == {"format": "PNG", "width": 32, "height": 24, "orientation": 1, "notes": []}


@pytest.mark.parametrize("color", COLORS)
def test_every_way_to_send_an_image_gives_the_same_answer(client: FlaskClient, color: str) -> None:
    data = color_image(color)
    raw = client.post("/predict", data=data, content_type="application/octet-stream")
    form = client.post("/predict", data={"image": (io.BytesIO(data), "x.png")})
    text = client.post("/predict", json={"image": base64.b64encode(data).decode()})
    assert raw.get_json()["predictions"] == form.get_json()["predictions"] == text.get_json()["predictions"]
    assert raw.get_json()["predictions"][0]["label"] == color


def test_several_images_are_answered_in_their_order_and_a_bad_one_fails_alone(client: FlaskClient) -> None:
    parts = [color_image("red"), b"not an image", color_image("blue")]
    answer = client.post("/predict", data={"image": [(io.BytesIO(p), f"{i}.png") for i, p in enumerate(parts)]})
    results = answer.get_json()["results"]
    assert answer.status_code == 200
    assert results[0]["predictions"][0]["label"] == "red"
    assert results[1]["error"]["code"] == "image.unsupported_format"
    assert results[2]["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize(
    ("url", "data", "content_type", "status", "code"),
    [
        ("/predict", b"", "image/png", 400, "image.empty"),
        ("/predict", b"hello", "image/png", 415, "image.unsupported_format"),
        ("/predict", RED[:60], "image/png", 422, "image.truncated"),
        ("/predict", RED, "text/plain", 415, "request.unsupported_media_type"),
        ("/predict", b"{", "application/json", 400, "request.invalid"),
        ("/predict", b'{"image": 7}', "application/json", 400, "request.invalid"),
        ("/predict", b'{"image": "%%%"}', "application/json", 400, "request.invalid"),
        ("/predict?top_k=0", RED, "image/png", 400, "request.invalid"),
        ("/predict?top_k=many", RED, "image/png", 400, "request.invalid"),
        ("/predict?version=0", RED, "image/png", 400, "request.invalid"),
        ("/predict?model=nobody", RED, "image/png", 404, "model.unknown"),
        ("/predict?version=9", RED, "image/png", 404, "version.unknown"),
        ("/predict", b"x" * (33 * 2**20), "image/png", 413, "request.too_large"),
        ("/nowhere", RED, "image/png", 404, "http.not_found"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_bad_input_gets_its_status_and_code_and_the_next_request_works(
    client: FlaskClient, url: str, data: bytes, content_type: str, status: int, code: str
) -> None:
    refused = client.post(url, data=data, content_type=content_type)
    problem = refused.get_json(force=True)
    assert (refused.status_code, problem["code"]) == (status, code)
    assert refused.content_type == "application/problem+json"
    assert problem["detail"]
    assert problem["request_id"] == refused.headers["X-Request-Id"]
    assert "Traceback" not in refused.text
    assert client.post("/predict", data=RED, content_type="image/png").status_code == 200


def test_top_k_limits_the_predictions_and_more_than_there_are_gives_all(client: FlaskClient) -> None:
    one = client.post("/predict?top_k=1", data=RED, content_type="image/png").get_json()
    all_ = client.post("/predict?top_k=900", data=RED, content_type="image/png").get_json()
    assert len(one["predictions"]) == 1
    assert len(all_["predictions"]) == 3


def test_a_deadline_that_is_no_number_is_refused(client: FlaskClient) -> None:
    answer = client.post("/predict", data=RED, content_type="image/png", headers={"X-Request-Deadline-Ms": "soon"})
    assert answer.status_code == 400
    assert "X-Request-Deadline-Ms" in answer.get_json(force=True)["detail"]


def test_every_reply_says_where_its_time_went(client: FlaskClient) -> None:
    answer = client.post("/predict", data=RED, content_type="image/png")
    timing = answer.headers["Server-Timing"]
    for stage in ("read", "decode", "queue", "assemble", "infer", "encode", "total"):
        assert f"{stage};dur=" in timing
    assert 'batch;desc="1"' in timing


def test_the_metrics_count_what_was_answered(client: FlaskClient) -> None:
    for _ in range(3):
        client.post("/predict", data=RED, content_type="image/png")
    client.post("/predict", data=b"", content_type="image/png")
    text = client.get("/metrics").text
    assert 'clearsight_requests_total{route="/predict",status="200"} 3.0' in text
    assert 'clearsight_requests_total{route="/predict",status="400"} 1.0' in text
    assert 'clearsight_predictions_total{label="red",model="colors",version="1"} 3.0' in text
    assert 'clearsight_batch_size_count{model="colors"} 3.0' in text
    assert "clearsight_engine_up 1.0" in text


def test_health_names_the_device_and_the_models(client: FlaskClient) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/startupz").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.get_json()["device"] == "cpu -> cpu"
    models = client.get("/models").get_json()
    assert [(m["name"], m["version"], m["state"], m["role"]) for m in models["models"]] == [
        ("colors", "1", "ready", "champion")
    ]


def test_all_classes_are_given_when_asked(client: FlaskClient) -> None:
    body = client.post("/predict?top_k=all", data=RED).get_json()
    assert body["predictions"][0]["label"] == "red"
    assert {p["label"] for p in body["predictions"]} == set(COLORS)
    assert len(client.post("/predict?top_k=1", data=RED).get_json()["predictions"]) == 1


def test_an_answer_below_the_threshold_abstains_and_says_so(client: FlaskClient) -> None:
    highest = client.post("/predict", data=RED).get_json()["predictions"][0]["probability"]
    body = client.post(f"/predict?threshold={highest + 0.001:.6f}", data=RED).get_json()
    assert body["predictions"] == []
    assert body["abstained"]["highest"] == pytest.approx(highest, abs=1e-6)
    assert body["abstained"]["threshold"] == pytest.approx(highest + 0.001, abs=1e-6)
    assert list(body) == ["request_id", "model", "predictions", "abstained", "input"]
    sure = client.post(f"/predict?threshold={highest - 0.001:.6f}", data=RED).get_json()
    assert sure["predictions"][0]["label"] == "red"
    assert "abstained" not in sure


def test_the_embedding_comes_on_request(client: FlaskClient) -> None:
    parts = [(io.BytesIO(color_image(color)), "x.png") for color in COLORS]
    results = client.post("/predict?embedding=true&top_k=1", data={"image": parts}).get_json()["results"]
    for index, result in enumerate(results):
        assert len(result["embedding"]) == 3
        assert max(range(3), key=result["embedding"].__getitem__) == index
    assert "embedding" not in client.post("/predict", data=RED).get_json()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("kind", ["raw", "json", "multipart"])
def test_a_compressed_request_is_read(client: FlaskClient, encoding: str, kind: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    body, content_type = RED, "image/png"
    if kind == "json":
        body, content_type = json.dumps({"image": base64.b64encode(RED).decode()}).encode(), "application/json"
    if kind == "multipart":
        body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + RED + b"\r\n--b--\r\n"
        content_type = "multipart/form-data; boundary=b"
    answer = client.post("/predict", data=pack(body), content_type=content_type, headers={"Content-Encoding": encoding})
    assert answer.get_json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/predict?threshold=2", "threshold must be a number between 0 and 1, not '2'"),
        ("/predict?threshold=nan", "threshold must be"),
        ("/predict?embedding=maybe", "embedding must be true or false, not 'maybe'"),
        ("/predict?top_k=-1", "top_k must be a whole number of at least 1, not '-1'"),
    ],
)
def test_a_bad_option_is_named(client: FlaskClient, url: str, message: str) -> None:
    refused = client.post(url, data=RED)
    assert refused.status_code == 400
    assert message in refused.get_json(force=True)["detail"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (gzip.compress(bytes(33 * 2**20)), {"Content-Encoding": "gzip"}, 413, "request.too_large"),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400, "request.invalid"),
        (gzip.compress(RED)[:-9], {"Content-Encoding": "gzip"}, 400, "request.invalid"),
        (RED, {"Content-Encoding": "br"}, 415, "request.unsupported_media_type"),
    ],
    ids=["bomb", "not gzip", "cut", "unknown"],
)
def test_a_bad_encoding_is_refused(
    client: FlaskClient, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    refused = client.post("/predict", data=body, headers=headers)
    assert (refused.status_code, refused.get_json(force=True)["code"]) == (status, code)

"""Explanations point at what decided, and show the pixels that the network saw."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import requests
from PIL import Image

from bundle.preprocess import preprocess
from service.explanation import GRID, occluded, occlusion_map, overlay
from tests.factory import color_image, preprocessing
from tests.running import Running


def corner() -> bytes:
    """A grey picture whose upper left quarter is red."""
    pixels = np.full((64, 64, 3), 128, np.uint8)
    pixels[:32, :32] = (250, 0, 0)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def ask(server: Running, query: str, data: bytes) -> requests.Response:
    return requests.post(f"{server.url}/explain?{query}", data=data, timeout=20)


@pytest.mark.parametrize(("method", "side"), [("cam", 8), ("occlusion", GRID)])
def test_the_map_is_highest_where_the_class_is(server: Running, method: str, side: int) -> None:
    answer = ask(server, f"view=numbers&method={method}&label=red", corner()).json()
    heat = np.array(answer["map"])
    assert (answer["label"], answer["index"], answer["method"]) == ("red", 0, method)
    assert heat.shape == (side, side)
    half = side // 2
    assert heat[:half, :half].mean() > heat[half + 1 :, half + 1 :].mean()
    assert np.unravel_index(heat.argmax(), heat.shape) <= (half, half)


def test_the_pixels_are_exactly_what_the_network_saw(server: Running) -> None:
    data = color_image("green", (40, 30))
    expected = preprocess(data, preprocessing(8)).pixels
    shown = ask(server, "view=pixels", data)
    assert shown.headers["Content-Type"] == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(shown.content))) == expected).all()
    numbers = ask(server, "view=numbers", data).json()
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(numbers["pixels"])))) == expected).all()
    assert numbers["label"] == "green"
    assert numbers["input"]["width"] == 40
    predicted = requests.post(f"{server.url}/predict", data=data, timeout=10).json()
    assert numbers["probability"] == pytest.approx(predicted["predictions"][0]["probability"], abs=1e-6)


def test_the_overlay_is_a_picture_with_the_heat_on_the_class(server: Running) -> None:
    answer = ask(server, "label=red", corner())
    assert answer.headers["Clearsight-Class"] == "0; method=cam"
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
    assert min(picture.shape[:2]) >= 224
    red = picture[..., 0] - picture[..., 2]
    half = picture.shape[0] // 2
    assert red[:half, :half].mean() > red[half:, half:].mean() + 50


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("label=dog", "no label 'dog'"),
        ("index=3", "index must be below 3"),
        ("method=magic", "method must be one of auto, cam, occlusion"),
        ("view=film", "view must be one of overlay, pixels, numbers"),
    ],
)
def test_what_cannot_be_explained_is_refused(server: Running, query: str, message: str) -> None:
    refused = ask(server, query, color_image("red"))
    assert refused.status_code == 400
    assert message in refused.json()["detail"]


def test_a_bad_image_and_two_images_are_refused(server: Running) -> None:
    assert ask(server, "", b"junk").json()["code"] == "image.unsupported_format"
    two = [("image", color_image("red")), ("image", color_image("blue"))]
    refused = requests.post(f"{server.url}/explain", files=two, timeout=10)
    assert "holds 2" in refused.json()["detail"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 20, 3), (32, 32, 1), (224, 224, 3)])
def test_occlusion_covers_every_pixel_once(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 100, shape, dtype=np.uint8)
    pixels[0, 0] = 255
    rows = occluded(pixels)
    parts = min(GRID, shape[0]) * min(GRID, shape[1])
    assert rows.shape == (1 + parts, *shape)
    assert (rows[0] == pixels).all()
    probabilities = np.zeros((1 + parts, 2), np.float32)
    probabilities[0, 1] = 0.9
    probabilities[1:, 1] = np.linspace(0, 0.9, parts)
    heat = occlusion_map(pixels, probabilities, 1)
    assert heat.shape == (min(GRID, shape[0]), min(GRID, shape[1]))
    assert heat[0, 0] == pytest.approx(0.9)
    assert overlay(pixels, heat).mode == "RGB"
    assert overlay(pixels, np.zeros_like(heat)).mode == "RGB"

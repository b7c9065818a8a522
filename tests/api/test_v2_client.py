"""The public Triton client, unmodified, against the real service: every call of it that makes sense here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from bundle.preprocess import preprocess
from tests.factory import COLORS, color_image, preprocessing
from tests.running import Running

FILES = [color_image(color, (32, 24)) for color in COLORS]
PIXELS = np.stack([preprocess(data, preprocessing(8)).pixels for data in FILES])


@pytest.fixture
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as opened:
        yield opened


def pixels_input(binary: bool = True, rows: np.ndarray[Any, Any] = PIXELS) -> triton.InferInput:
    return triton.InferInput("image", list(rows.shape), "UINT8").set_data_from_numpy(rows, binary_data=binary)


def files_input() -> triton.InferInput:
    array = np.array(FILES, dtype=np.object_)
    return triton.InferInput("image", [len(FILES)], "BYTES").set_data_from_numpy(array)


def expected(server: Running) -> np.ndarray[Any, Any]:
    rows = []
    for data in FILES:
        found = requests.post(f"{server.url}/predict", data=data, timeout=10).json()["predictions"]
        rows.append([p["probability"] for p in sorted(found, key=lambda p: p["index"])])
    return np.array(rows)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "2")
    assert not client.is_model_ready("colors", "9")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server["name"] == "clearsight"
    assert "binary_tensor_data" in server["extensions"]
    metadata = client.get_model_metadata("colors")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]} in metadata["outputs"]
    assert "2" in metadata["versions"]
    config = client.get_model_config("colors", "2")
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}]


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
@pytest.mark.parametrize("kind", ["pixels binary", "pixels json", "files"])
def test_infer_in_every_encoding(
    server: Running, client: triton.InferenceServerClient, kind: str, request_: str | None, response: str | None
) -> None:
    given = files_input() if kind == "files" else pixels_input(kind == "pixels binary")
    result = client.infer(
        "colors",
        [given],
        request_id="abc",
        request_compression_algorithm=request_,
        response_compression_algorithm=response,
    )
    assert result.get_response()["id"] == "abc"
    assert result.get_response()["model_version"] == "2"
    assert result.as_numpy("probabilities").dtype == np.float32
    assert np.abs(result.as_numpy("probabilities") - expected(server)).max() < 1e-6
    assert result.as_numpy("embedding").shape == (3, 3)
    assert result.as_numpy("logits").argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_large_answer_is_compressed_when_asked(server: Running, algorithm: str) -> None:
    with triton.InferenceServerClient(server.address) as client:
        rows = np.repeat(PIXELS, 20, axis=0)
        result = client.infer("colors", [pixels_input(rows=rows)], response_compression_algorithm=algorithm)
        assert result.as_numpy("probabilities").shape == (60, 3)
    body, length = triton.InferenceServerClient.generate_request_body([pixels_input(rows=rows)])
    answer = requests.post(
        f"{server.url}/v2/models/colors/infer",
        data=body,
        headers={"Inference-Header-Content-Length": str(length), "Accept-Encoding": algorithm},
        timeout=10,
    )
    assert answer.headers["Content-Encoding"] == algorithm


@pytest.mark.parametrize("binary", [True, False])
def test_named_outputs_and_classification(client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = [
        triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2),
        triton.InferRequestedOutput("logits", binary_data=not binary),
    ]
    result = client.infer("colors", [pixels_input()], outputs=outputs)
    classes = result.as_numpy("probabilities")
    assert classes.shape == (3, 2)
    best = [(c.decode() if isinstance(c, bytes) else c).split(":") for c in classes[:, 0]]
    assert [int(b[1]) for b in best] == [0, 1, 2]
    assert [b[2] for b in best] == list(COLORS)
    assert result.as_numpy("logits").shape == (3, 3)
    assert result.as_numpy("embedding") is None


def test_async_infer_and_versions(client: triton.InferenceServerClient) -> None:
    waiting = [client.async_infer("colors", [pixels_input()], model_version=v) for v in ("2", "2", "2")]
    for one in waiting:
        assert one.get_result().as_numpy("probabilities").argmax(1).tolist() == [0, 1, 2]


def test_asyncio_client(server: Running) -> None:
    async def talk() -> None:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("shades"))["inputs"][0]["shape"] == [-1, 16, 16, 3]
            results = await asyncio.gather(*(client.infer("colors", [files_input()]) for _ in range(8)))
            for result in results:
                assert result.as_numpy("probabilities").argmax(1).tolist() == [0, 1, 2]
            for algorithm in ("gzip", "deflate"):
                result = await client.infer(
                    "colors",
                    [pixels_input(False)],
                    request_compression_algorithm=algorithm,
                    response_compression_algorithm=algorithm,
                )
                assert result.as_numpy("probabilities").argmax(1).tolist() == [0, 1, 2]

    asyncio.run(talk())


def test_static_bodies(server: Running, client: triton.InferenceServerClient) -> None:
    body, length = client.generate_request_body([pixels_input()])
    answer = requests.post(
        f"{server.url}/v2/models/colors/infer",
        data=body,
        headers={"Inference-Header-Content-Length": str(length), "Accept-Encoding": "identity"},
        timeout=10,
    )
    result = client.parse_response_body(
        answer.content, header_length=int(answer.headers["Inference-Header-Content-Length"])
    )
    assert result.as_numpy("probabilities").argmax(1).tolist() == [0, 1, 2]


def test_repository_index(client: triton.InferenceServerClient) -> None:
    entries = {(e["name"], e["version"]): e["state"] for e in client.get_model_repository_index()}
    assert entries["colors", "2"] == entries["shades", "1"] == "READY"
    assert ("colors", "1") in entries


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            triton.InferInput("image", [1, 3, 8, 8], "FP32").set_data_from_numpy(np.zeros((1, 3, 8, 8), np.float32)),
            r"'image' is FP32 \[1, 3, 8, 8\], but it takes UINT8 \[n, 8, 8, 3\] .* or BYTES \[n\]",
        ),
        (pixels_input(rows=np.zeros((1, 9, 8, 3), np.uint8)), r"UINT8 \[1, 9, 8, 3\], but it takes UINT8"),
        (pixels_input(rows=np.zeros((65, 8, 8, 3), np.uint8)), "65 images; at most 64"),
        (triton.InferInput("data", [1], "UINT8").set_data_from_numpy(np.zeros(1, np.uint8)), "one input, 'image'"),
        (
            triton.InferInput("image", [1], "BYTES").set_data_from_numpy(np.array([b"junk"], dtype=np.object_)),
            r"image\[0\]: The bytes are not a JPEG",
        ),
        (triton.InferInput("image", [1, 8, 8, 3], "UINT8").set_shared_memory("region", 192), "Shared memory"),
    ],
    ids=["fp32", "shape", "too many", "name", "junk", "shared memory"],
)
def test_wrong_tensors_are_refused_in_words(
    client: triton.InferenceServerClient, given: triton.InferInput, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("colors", [given])
    assert caught.value.status().startswith("4")


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get_system_shared_memory_status(),
        lambda c: c.register_system_shared_memory("r", "/r", 10),
        lambda c: c.unregister_system_shared_memory("r"),
        lambda c: c.unregister_system_shared_memory(),
        lambda c: c.get_cuda_shared_memory_status("r"),
        lambda c: c.register_cuda_shared_memory("r", b"h", 0, 10),
        lambda c: c.unregister_cuda_shared_memory(),
        lambda c: c.get_trace_settings(),
        lambda c: c.update_trace_settings("colors", {"trace_rate": "1"}),
        lambda c: c.get_log_settings(),
        lambda c: c.update_log_settings({"log_info": True}),
        lambda c: c.get_inference_statistics(),
        lambda c: c.get_inference_statistics("colors", "2"),
    ],
)
def test_what_is_not_there_says_so(client: triton.InferenceServerClient, call: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"not supported|environment|/metrics") as caught:
        call(client)
    assert caught.value.status() == "400"


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda c: c.infer("nobody", [pixels_input()]), "404", "nobody"),
        (lambda c: c.infer("colors", [pixels_input()], model_version="77"), "404", "77"),
        (lambda c: c.infer("colors", [pixels_input()], model_version="x"), "400", "version must be"),
        (
            lambda c: c.infer("colors", [pixels_input()], outputs=[triton.InferRequestedOutput("boxes")]),
            "400",
            "no output 'boxes'; it has probabilities",
        ),
        (lambda c: c.get_model_metadata("nobody"), "404", "nobody"),
    ],
    ids=["model", "version", "version text", "output", "metadata"],
)
def test_what_does_not_exist_is_named(
    client: triton.InferenceServerClient, call: Any, status: str, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        call(client)
    assert caught.value.status() == status


def test_a_bomb_in_gzip_is_refused(server: Running) -> None:
    import gzip

    bomb = gzip.compress(bytes(40 * 2**20))
    answer = requests.post(
        f"{server.url}/v2/models/colors/infer", data=bomb, headers={"Content-Encoding": "gzip"}, timeout=20
    )
    assert answer.status_code == 413
    assert "once decompressed" in answer.json()["error"]

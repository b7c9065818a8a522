"""The binary tensor codec: what is written is read again, and hostile bytes are a refusal, never a crash."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RequestInvalid
from service.v2.schema import InputTensor
from service.v2.tensors import Output, Tensor, byte_strings, read_request, uint8_rows, write_response
from tests.fuzzing import fuzzed


def body_of(document: object, tail: bytes = b"") -> tuple[bytes, str]:
    text = json.dumps(document).encode()
    return text + tail, str(len(text))


def tensor(shape: list[int], datatype: str, raw: bytes | None = None, data: object = None) -> Tensor:
    return Tensor(InputTensor(name="image", shape=shape, datatype=datatype, data=data), raw)


@fuzzed(100)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_bytes_elements_survive_the_wire(elements: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(e)) + e for e in elements)
    spec = {
        "name": "image", "shape": [len(elements)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    request, tensors = read_request(*body_of({"id": "7", "inputs": [spec]}, raw))
    assert request.id == "7"
    assert byte_strings(tensors[0], 64) == elements


@fuzzed(100)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_binary_answers_hold_the_exact_floats(values: list[float]) -> None:
    row = np.array([values], np.float32)
    body, length = write_response({"model_name": "m"}, [Output("probabilities", row, True)])
    assert length is not None
    head = json.loads(body[:length])
    assert head["outputs"][0]["shape"] == [1, len(values)]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4 * len(values)}
    assert np.frombuffer(body[length:], "<f4").tolist() == row[0].tolist()


def test_strings_travel_as_length_and_bytes() -> None:
    body, length = write_response({}, [Output("p", [["0.9:1:é"]], True)])
    assert body[length:] == struct.pack("<I", 8) + "0.9:1:é".encode()


@pytest.mark.parametrize("data", [[[[[1, 2, 3], [4, 5, 6]]]], [1, 2, 3, 4, 5, 6]], ids=["nested", "flat"])
def test_json_pixels_may_be_nested_or_flat(data: object) -> None:
    assert uint8_rows(tensor([1, 1, 2, 3], "UINT8", data=data)).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (tensor([1, 2], "UINT8", b"abc"), "2 bytes, but 3 came"),
        (tensor([1, 2], "UINT8", data=[1, 2, 3]), "2 values, but data holds 3"),
        (tensor([1, 2], "UINT8", data=[1, 256]), "between 0 and 255"),
        (tensor([1, 2], "UINT8", data=[0.5, 1]), "between 0 and 255"),
        (tensor([1, 2], "UINT8", data=[[1], [1, 2]]), "ragged"),
        (tensor([1, 2], "UINT8"), "2 values, but data holds 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_pixels_are_refused_with_both_numbers(case: Tensor, message: str) -> None:
    with pytest.raises(RequestInvalid, match=message):
        uint8_rows(case)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (tensor([1], "BYTES", b"\x05\0\0\0ab"), "element 0 is longer"),
        (tensor([1], "BYTES", b"\x01\0\0"), "element 0 is longer"),
        (tensor([2], "BYTES", b"\x01\0\0\0a"), "2 elements, but 1 came"),
        (tensor([1], "BYTES", b"\x01\0\0\0a\0\0\0\0"), "more bytes than its 1 elements"),
        (tensor([99], "BYTES", b""), "at most 64"),
        (tensor([1], "BYTES", data=["%"]), "base64"),
        (tensor([1], "BYTES", data="abc"), "list of base64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_strings_are_refused(case: Tensor, message: str) -> None:
    with pytest.raises(RequestInvalid, match=message):
        byte_strings(case, 64)


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"{}", None, "inputs: Field required"),
        (b"[]", None, "object"),
        (b"{", None, "Invalid JSON"),
        (b"{}", "3", "at most the body's 2 bytes"),
        (b"{}", "-1", "at most the body's 2 bytes"),
        (b"{}", "9" * 5000, "at most the body's 2 bytes"),
        (*body_of({"inputs": [{"name": "a", "shape": [1], "datatype": "UINT8"}]}, b"xx"), "belong to no tensor"),
    ],
    ids=lambda value: "",
)
def test_a_broken_request_is_refused(body: bytes, length: str | None, message: str) -> None:
    with pytest.raises(RequestInvalid, match=message):
        read_request(body, length)


@pytest.mark.parametrize("size", [-1, 3, 2**63, True, "2", 1.5])
def test_a_binary_size_that_does_not_fit_is_refused(size: object) -> None:
    spec = {"name": "a", "shape": [2], "datatype": "UINT8", "parameters": {"binary_data_size": size}}
    with pytest.raises(RequestInvalid, match="binary_data_size of 'a'"):
        read_request(*body_of({"inputs": [spec]}, b"xx"))


@fuzzed(300)
@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300).map(str), st.text(max_size=5)))
def test_random_bodies(body: bytes, length: str | None) -> None:
    with contextlib.suppress(RequestInvalid):
        read_request(body, length)


INPUTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "x"]),
        "shape": st.lists(st.integers(-1, 5), max_size=5),
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]),
        "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-2, 60), max_size=1),
    },
    optional={"data": st.recursive(st.integers(-9, 300) | st.text(max_size=4) | st.none(), st.lists, max_leaves=8)},
)


@fuzzed(400)
@given(st.lists(INPUTS, max_size=3), st.binary(max_size=60))
def test_random_requests_with_tensors(inputs: list[object], tail: bytes) -> None:
    with contextlib.suppress(RequestInvalid):
        _, tensors = read_request(*body_of({"inputs": inputs}, tail))
        for one in tensors:
            with contextlib.suppress(RequestInvalid):
                assert uint8_rows(one).shape == tuple(one.spec.shape)
            with contextlib.suppress(RequestInvalid):
                assert all(isinstance(element, bytes) for element in byte_strings(one, 64))

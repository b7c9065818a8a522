"""Tensors as bytes and as JSON: the binary tensor extension in both directions, bounded and without surprises."""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import RequestInvalid
from service.intake import validated
from service.v2.schema import InferRequest, InputTensor

HEADER_LENGTH = "Inference-Header-Content-Length"
SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the request: its description, and its bytes when they came behind the JSON."""

    spec: InputTensor
    raw: bytes | None


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, list[Tensor]]:
    """Split a body into its JSON and the binary tensors behind it. Raises `RequestInvalid` naming what is wrong.

    `header_length` is the header of that name: how many bytes of JSON come first; None when all of it is JSON.
    """
    cut = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal() or int(header_length[:19]) > len(body):
            raise RequestInvalid(f"{HEADER_LENGTH} must be a number of at most the body's {len(body)} bytes.")
        cut = int(header_length)
    request = validated(InferRequest, body[:cut])
    tensors, at = [], cut
    for spec in request.inputs:
        if "shared_memory_region" in spec.parameters:
            raise RequestInvalid("Shared memory is not supported; send the tensor in the request.")
        size = spec.parameters.get(SIZE)
        if size is None:
            tensors.append(Tensor(spec, None))
            continue
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise RequestInvalid(f"{SIZE} of {spec.name!r} is {size}, but {len(body) - at} bytes follow.")
        tensors.append(Tensor(spec, body[at : at + size]))
        at += size
    if at != len(body):
        raise RequestInvalid(f"{len(body) - at} bytes of the body belong to no tensor.")
    return request, tensors


def uint8_rows(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Return a UINT8 tensor in its shape. Raises `RequestInvalid`."""
    spec = tensor.spec
    count = math.prod(spec.shape)
    if tensor.raw is not None:
        if len(tensor.raw) != count:
            raise RequestInvalid(f"{spec.name!r} has shape {spec.shape}, {count} bytes, but {len(tensor.raw)} came.")
        return np.frombuffer(tensor.raw, np.uint8).reshape(spec.shape)
    try:
        values = np.array(spec.data).ravel()
    except ValueError:
        raise RequestInvalid(f"data of {spec.name!r} is ragged.") from None
    if values.size != count:
        raise RequestInvalid(f"{spec.name!r} has shape {spec.shape}, {count} values, but data holds {values.size}.")
    if values.dtype.kind not in "iu" or (count and (values.min() < 0 or values.max() > 255)):
        raise RequestInvalid(f"data of {spec.name!r} must be whole numbers between 0 and 255.")
    return values.astype(np.uint8).reshape(spec.shape)


def byte_strings(tensor: Tensor, most: int) -> list[bytes]:
    """Return the elements of a BYTES tensor: raw with 4-byte little-endian lengths, or base64 strings in JSON."""
    spec = tensor.spec
    count = math.prod(spec.shape)
    if count > most:
        raise RequestInvalid(f"{spec.name!r} holds {count} images; at most {most} are accepted.")
    found = _raw_strings(tensor.raw, spec.name, count) if tensor.raw is not None else _json_strings(spec)
    if len(found) != count:
        raise RequestInvalid(f"{spec.name!r} has shape {spec.shape}, {count} elements, but {len(found)} came.")
    return found


def _raw_strings(raw: bytes, name: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(found) == count:
            raise RequestInvalid(f"{name!r} has more bytes than its {count} elements.")
        end = at + 4
        length = int.from_bytes(raw[at:end], "little") if end <= len(raw) else -1
        if length < 0 or end + length > len(raw):
            raise RequestInvalid(f"{name!r}: element {len(found)} is longer than the bytes that came.")
        found.append(raw[end : end + length])
        at = end + length
    return found


def _json_strings(spec: InputTensor) -> list[bytes]:
    values = spec.data
    while isinstance(values, list) and len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not isinstance(values, list):
        raise RequestInvalid(f"data of {spec.name!r} must be a list of base64 strings.")
    found = []
    for index, value in enumerate(values):
        alone = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            found.append(base64.b64decode(alone, validate=True))
        except (TypeError, ValueError, binascii.Error):
            raise RequestInvalid(f"data[{index}] of {spec.name!r} must be base64 of an encoded image.") from None
    return found


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of the answer, float32 or strings, and whether it travels behind the JSON."""

    name: str
    values: npt.NDArray[np.float32] | list[list[str]]
    binary: bool


def write_response(head: dict[str, Any], outputs: list[Output]) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON when binary tensors follow it."""
    described, tail = [], b""
    for output in outputs:
        strings = isinstance(output.values, list)
        shape = [len(output.values), len(output.values[0])] if strings else list(np.shape(output.values))
        entry: dict[str, Any] = {"name": output.name, "datatype": "BYTES" if strings else "FP32", "shape": shape}
        if output.binary:
            raw = _encode(output)
            entry["parameters"] = {SIZE: len(raw)}
            tail += raw
        else:
            entry["data"] = _flat(output)
        described.append(entry)
    text = json.dumps({**head, "outputs": described}).encode()
    return text + tail, len(text) if any(output.binary for output in outputs) else None


def _flat(output: Output) -> list[Any]:
    if isinstance(output.values, list):
        return [text for row in output.values for text in row]
    return output.values.ravel().tolist()


def _encode(output: Output) -> bytes:
    if isinstance(output.values, list):
        texts = [text.encode() for row in output.values for text in row]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.ascontiguousarray(output.values, "<f4").tobytes()

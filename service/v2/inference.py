"""An infer request of the protocol, answered by the engine: what is accepted, and how each output is rendered."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from bundle.errors import ImageError

from service.errors import RequestInvalid
from service.port import Rows, ServedModel
from service.rendering import top_k
from service.v2.schema import InferRequest, OutputRequest, TensorMetadata
from service.v2.tensors import Output, Tensor, byte_strings, uint8_rows

INPUT = "image"


def accepted_input(served: ServedModel) -> str:
    """Say in one sentence what the model takes."""
    m = served.manifest
    color = "RGB" if m.preprocessing.channels == 3 else "grey"
    return (
        f"it takes UINT8 [n, {m.height}, {m.width}, {m.preprocessing.channels}] ({color} pixels 0 to 255 in the order"
        " batch, height, width, channel, not normalised) or BYTES [n] (encoded images)"
    )


def image_tensor(tensors: list[Tensor], served: ServedModel, most: int) -> Rows | list[bytes]:
    """Return the request's images: pixels as they enter the graph, or encoded files. Raises `RequestInvalid`."""
    names = [tensor.spec.name for tensor in tensors]
    if names != [INPUT]:
        raise RequestInvalid(f"{served.name} has one input, 'image', not {', '.join(map(repr, names))}.")
    tensor = tensors[0]
    shape, datatype = tensor.spec.shape, tensor.spec.datatype
    if datatype == "BYTES":
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or shape[0] < 1:
            raise RequestInvalid(f"'image' is BYTES {shape}, but {accepted_input(served)}.")
        return byte_strings(tensor, most)
    m = served.manifest
    if datatype != "UINT8" or shape[1:] != [m.height, m.width, m.preprocessing.channels] or shape[0] < 1:
        raise RequestInvalid(f"'image' is {datatype} {shape}, but {accepted_input(served)}.")
    if shape[0] > most:
        raise RequestInvalid(f"'image' holds {shape[0]} images; at most {most} are accepted.")
    return uint8_rows(tensor)


def first_fault(prepared: list[Any]) -> ImageError | None:
    """Return the error of the first image that could not be read, naming its place: a tensor has no holes."""
    for index, one in enumerate(prepared):
        if isinstance(one, ImageError):
            return type(one)(f"image[{index}]: {one.detail}")
    return None


def wanted_outputs(request: InferRequest, served: ServedModel) -> list[OutputRequest]:
    """Return the outputs to render: those asked for, or all. Raises `RequestInvalid` for one that is not there."""
    there = [spec.name for spec in served.manifest.outputs]
    for output in request.outputs:
        if output.name not in there:
            raise RequestInvalid(f"{served.name} has no output {output.name!r}; it has {', '.join(there)}.")
        if "shared_memory_region" in output.parameters:
            raise RequestInvalid("Shared memory is not supported; take the tensor from the answer.")
    return request.outputs or [OutputRequest(name=name) for name in there]


def render(
    output: OutputRequest, rows: npt.NDArray[np.float32], served: ServedModel, binary_by_default: bool
) -> Output:
    """Turn rows float32 [n, ...] into an output: as numbers, or as `score:index:label` for the k best."""
    binary = output.parameters.get("binary_data", binary_by_default)
    if not isinstance(binary, bool):
        raise RequestInvalid(f"binary_data of output {output.name!r} must be true or false.")
    k = output.parameters.get("classification", 0)
    if type(k) is not int or k < 0:
        raise RequestInvalid(f"classification of output {output.name!r} must be a whole number of at least 1.")
    if not k:
        return Output(output.name, rows, binary)
    labels = served.manifest.labels if rows.shape[1:] == (len(served.manifest.labels),) else None
    return Output(output.name, [_classes(row, k, labels) for row in rows.reshape(len(rows), -1)], binary)


def _classes(row: npt.NDArray[np.float32], k: int, labels: tuple[str, ...] | None) -> list[str]:
    return [f"{row[i]:.6f}:{i}" + (f":{labels[i]}" if labels else "") for i in top_k(row, k).tolist()]


def tensor_metadata(served: ServedModel) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """Describe the model's input and outputs; -1 is the batch."""
    manifest = served.manifest

    def describe(spec: Any) -> TensorMetadata:
        shape = [d if isinstance(d, int) else -1 for d in spec.shape]
        return TensorMetadata(name=spec.name, datatype={"uint8": "UINT8", "float32": "FP32"}[spec.dtype], shape=shape)

    return [describe(manifest.input)], [describe(spec) for spec in manifest.outputs]

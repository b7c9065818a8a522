"""Which of its two int8 convolutions onnxruntime takes: the direct one, or im2col and a matrix product.

On x86 it convolves int8 weights directly, with VNNI at best, whenever their zero point is 0, and only otherwise turns
the convolution into a matrix product, which is the one that uses AMX where the processor has it. Weights and zero point
may both be raised by one: their difference, which is all that counts, stays the same, and so does every answer, to the
last bit. On a Xeon with AMX that halves what a wide convolution takes; without AMX it costs a fifth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

LEAST_PRODUCTS = 256
"""Products in one output, input channels x height x width of the kernel, from which the matrix product was faster."""
_INT8 = 3
_HIGHEST = 126
"""Of weights that may be raised by one; quantisation to 7 bits leaves 64."""


def has_tiles() -> bool:
    """Return whether the processor multiplies int8 matrices in tiles (AMX)."""
    try:
        return " amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def by_matrix_product(model: bytes) -> bytes | None:
    """Return an equal graph whose wide int8 convolutions run as matrix products; None where it has none.

    `model` is an ONNX file as bytes. Anything that is not surely a convolution of constant int8 weights with zero
    point 0, which nothing else reads, stays as it is.
    """
    changed = np.frombuffer(model, np.uint8).copy()
    graph = _read_graph(model)
    if any(node.nested for node in graph.nodes):
        return None  # branches and loops read the graph around them
    raised = 0
    for weights, zero in graph.wide():
        values = changed[slice(*weights.raw)].view(np.int8)
        zeros = changed[slice(*zero.numbers)]
        if values.max(initial=0) > _HIGHEST or zeros.any() or len(zeros) != zero.count or len(values) != weights.count:
            continue
        values += 1
        zeros += 1
        raised += 1
    return changed.tobytes() if raised else None


# An ONNX file as far as it is needed: messages of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto in the wire
# format of https://protobuf.dev/programming-guides/encoding. The service does without the onnx library.

Span = tuple[int, int]


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    kind: int = 0
    dims: list[int] = field(default_factory=list)
    raw: Span = (0, 0)
    packed: Span = (0, 0)

    @property
    def count(self) -> int:
        return prod(self.dims)

    @property
    def numbers(self) -> Span:
        """Where the int8 numbers are, a byte each; as packed varints that holds for 0 to 127."""
        return self.raw if self.raw[1] > self.raw[0] else self.packed


@dataclass(slots=True)
class _Node:
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nested: bool = False
    """Whether an attribute is a graph of its own."""


@dataclass(slots=True)
class _Graph:
    nodes: list[_Node] = field(default_factory=list)
    tensors: dict[str, _Tensor] = field(default_factory=dict)

    def wide(self) -> Iterator[tuple[_Tensor, _Tensor]]:
        """Yield the int8 weights and zero points of convolutions with many products, if nothing else reads them."""
        readers: dict[str, int] = {}
        for node in self.nodes:
            for name in node.inputs:
                readers[name] = readers.get(name, 0) + 1
        weighted = {node.inputs[1] for node in self.nodes if node.kind == "Conv" and len(node.inputs) > 1}
        for node in self.nodes:
            if node.kind != "DequantizeLinear" or len(node.inputs) != 3 or not weighted.intersection(node.outputs):
                continue
            weights, zero = self.tensors.get(node.inputs[0]), self.tensors.get(node.inputs[2])
            if weights is None or zero is None or weights.kind != _INT8 or zero.kind != _INT8:
                continue
            names = (weights.name, zero.name, node.outputs[0])
            if prod(weights.dims[1:]) >= LEAST_PRODUCTS and all(readers[name] == 1 for name in names):
                yield weights, zero


def _read_graph(model: bytes) -> _Graph:
    graph = _Graph()
    for number, value in _fields(model, (0, len(model))):
        if number == 7 and isinstance(value, tuple):
            for part, inside in _fields(model, value):
                if part == 1 and isinstance(inside, tuple):
                    graph.nodes.append(_read_node(model, inside))
                elif part == 5 and isinstance(inside, tuple):
                    tensor = _read_tensor(model, inside)
                    graph.tensors[tensor.name] = tensor
    return graph


def _read_node(model: bytes, span: Span) -> _Node:
    node = _Node()
    for number, value in _fields(model, span):
        if isinstance(value, tuple) and number == 5:
            node.nested |= any(part in (6, 11) for part, _ in _fields(model, value))
        elif isinstance(value, tuple) and number in (1, 2, 4):
            text = model[slice(*value)].decode()
            if number == 4:
                node.kind = text
            else:
                (node.inputs if number == 1 else node.outputs).append(text)
    return node


def _read_tensor(model: bytes, span: Span) -> _Tensor:
    tensor = _Tensor()
    for number, value in _fields(model, span):
        if isinstance(value, int):
            if number == 1:
                tensor.dims.append(value)
            elif number == 2:
                tensor.kind = value
        elif number == 1:
            tensor.dims += _varints(model, value)
        elif number == 5:
            tensor.packed = value
        elif number == 8:
            tensor.name = model[slice(*value)].decode()
        elif number == 9:
            tensor.raw = value
    return tensor


def _fields(model: bytes, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield the number of each field and its integer, or where its bytes are; fixed-size fields are passed over."""
    at, end = span
    while at < end:
        key, at = _varint(model, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(model, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(model, at)
            yield number, (at, at + length)
            at += length
        else:
            at += {1: 8, 5: 4}.get(wire, 0)


def _varints(model: bytes, span: Span) -> Iterator[int]:
    at, end = span
    while at < end:
        value, at = _varint(model, at)
        yield value


def _varint(model: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = model[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7

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
from bundle.wire import fields, varint

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
    changed = bytearray(model)
    graph = _read_graph(memoryview(changed))
    if any(node.nested for node in graph.nodes):
        return None  # branches and loops read the graph around them
    raised = 0
    for weights, zero in graph.wide():
        if len(weights.raw) != weights.count or len(zero.numbers) != zero.count:
            continue
        values, zeros = np.frombuffer(weights.raw, np.int8), np.frombuffer(zero.numbers, np.int8)
        if values.max(initial=0) > _HIGHEST or zeros.any():
            continue
        values += 1
        zeros += 1
        raised += 1
    return bytes(changed) if raised else None


# An ONNX file as far as it is needed: messages of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, as views into
# the file. The service does without the onnx library.


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    kind: int = 0
    dims: list[int] = field(default_factory=list)
    raw: memoryview = field(default_factory=lambda: memoryview(b""))
    packed: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def count(self) -> int:
        return prod(self.dims)

    @property
    def numbers(self) -> memoryview:
        """The int8 numbers, a byte each; as packed varints that holds for 0 to 127."""
        return self.raw or self.packed


@dataclass(slots=True)
class _Node:
    kind: str
    inputs: list[str]
    outputs: list[str]
    nested: bool
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


def _read_graph(model: memoryview) -> _Graph:
    graph = _Graph()
    for content in _messages(model, 7):
        graph.nodes += [_read_node(node) for node in _messages(content, 1)]
        graph.tensors |= {tensor.name: tensor for tensor in map(_read_tensor, _messages(content, 5))}
    return graph


def _read_node(data: memoryview) -> _Node:
    inputs, outputs, kinds = ([str(text, "utf-8") for text in _messages(data, number)] for number in (1, 2, 4))
    nested = any(number in (6, 11) for attribute in _messages(data, 5) for number, _ in fields(attribute))
    return _Node("".join(kinds), inputs, outputs, nested)


def _read_tensor(data: memoryview) -> _Tensor:
    tensor = _Tensor()
    for number, value in fields(data):
        if isinstance(value, int):
            if number == 1:
                tensor.dims.append(value)
            elif number == 2:
                tensor.kind = value
        elif number == 1:
            tensor.dims += _packed(value)
        elif number == 5:
            tensor.packed = value
        elif number == 8:
            tensor.name = str(value, "utf-8")
        elif number == 9:
            tensor.raw = value
    return tensor


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield what fields of this number hold, where that is bytes."""
    return (value for number, value in fields(data) if number == wanted and not isinstance(value, int))


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = varint(data, position)
        yield value

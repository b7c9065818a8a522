"""An ONNX file as far as the engine reads and writes it: the messages of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, without the onnx library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from bundle.wire import fields, head, varint, write

GRAPH, NODE, TENSOR = 7, 1, 5
"""Fields: a model's graph; a graph's nodes and constants."""
_KINDS: dict[int, npt.DTypeLike] = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}
_NUMBERS = {np.dtype(kind): number for number, kind in _KINDS.items()}
_INT, _STRING, _INTS = 2, 3, 7

Integers = Mapping[str, int | list[int]]
Attribute = int | list[int] | str
Array = npt.NDArray[Any]


@dataclass(slots=True)
class Node:
    """One operation, with those of its attributes that are integers or text."""

    kind: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)


class Graph:
    """The graph of a model, as views into the file. Raises `ValueError` or `IndexError` where it is none."""

    def __init__(self, model: memoryview) -> None:
        self._model = model
        (graph,) = _messages(model, GRAPH)
        self.nodes = [_node(node) for node in _messages(graph, NODE)]
        self.constants = dict(filter(None, map(_tensor, _messages(graph, TENSOR))))
        """By name, those that are in this file and of a kind that is known here."""

    def written(self, replaced: Mapping[int, Sequence[bytes]]) -> bytes:
        """Return the model with other fields of a graph in the places of nodes, which are given by their index."""
        parts: list[bytes | memoryview] = []
        for number, value in fields(self._model):
            if number != GRAPH or isinstance(value, int):
                parts += _field(number, value)
                continue
            inner = list(_replaced(value, replaced))
            parts += [head(number, sum(map(len, inner))), *inner]
        return b"".join(parts)


def node_of(kind: str, domain: str, inputs: Sequence[str], output: str, attributes: Integers) -> bytes:
    """Return a node as a field of a graph; it is named like its output."""
    parts = [write(1, name.encode()) for name in inputs]
    parts += [write(number, text.encode()) for number, text in ((2, output), (3, output), (4, kind), (7, domain))]
    for name, value in attributes.items():
        where, form, numbers = (8, _INTS, value) if isinstance(value, list) else (3, _INT, [value])
        parts.append(write(5, write(1, name.encode()) + b"".join(write(where, n) for n in numbers) + write(20, form)))
    return write(NODE, b"".join(parts))


def tensor_of(name: str, values: Array) -> bytes:
    """Return a constant as a field of a graph."""
    parts = [write(1, size) for size in values.shape]
    parts += [write(2, _NUMBERS[values.dtype]), write(8, name.encode()), write(9, values.tobytes())]
    return write(TENSOR, b"".join(parts))


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield what fields of this number hold, where that is bytes."""
    return (value for number, value in fields(data) if number == wanted and not isinstance(value, int))


def _replaced(graph: memoryview, replaced: Mapping[int, Sequence[bytes]]) -> Iterator[bytes | memoryview]:
    index = -1
    for number, value in fields(graph):
        index += number == NODE
        yield from replaced[index] if number == NODE and index in replaced else _field(number, value)


def _field(number: int, value: int | memoryview) -> Sequence[bytes | memoryview]:
    """Return the pieces of a field as it is; large ones are not copied."""
    return (write(number, value),) if isinstance(value, int) else (head(number, len(value)), value)


def _node(data: memoryview) -> Node:
    inputs, outputs, kinds, domains = ([str(t, "utf-8") for t in _messages(data, number)] for number in (1, 2, 4, 7))
    attributes = dict(filter(None, map(_attribute, _messages(data, 5))))
    return Node("".join(kinds), "".join(domains), inputs, outputs, attributes)


def _attribute(data: memoryview) -> tuple[str, Attribute] | None:
    name, form, integer, text = "", 0, 0, ""
    integers: list[int] = []
    for number, value in fields(data):
        if isinstance(value, int):
            if number == 3:
                integer = value
            elif number == 8:
                integers.append(value)
            elif number == 20:
                form = value
        elif number == 1:
            name = str(value, "utf-8")
        elif number == 4:
            text = str(value, "utf-8", "replace")
        elif number == 8:
            integers += _varints(value)
    known: dict[int, Attribute] = {_INT: integer, _INTS: integers, _STRING: text}
    return (name, known[form]) if form in known else None


def _tensor(data: memoryview) -> tuple[str, Array] | None:
    name, kind, raw = "", 0, memoryview(b"")
    shape: list[int] = []
    integers: list[int] = []
    for number, value in fields(data):
        if isinstance(value, int):
            if number == 1:
                shape.append(value)
            elif number == 2:
                kind = value
        elif number == 1:
            shape += _varints(value)
        elif number == 5:
            integers += _varints(value)
        elif number == 8:
            name = str(value, "utf-8")
        elif number in (4, 9):  # floats are packed as they would be raw
            raw = value
    if kind not in _KINDS:
        return None
    values: Array = np.array(integers, _KINDS[kind]) if integers else np.frombuffer(raw, _KINDS[kind])
    return (name, values.reshape(shape)) if values.size == prod(shape) else None


def _varints(data: memoryview) -> Iterator[int]:
    """Yield packed integers; a negative one is the complement of its 64 bits."""
    position = 0
    while position < len(data):
        value, position = varint(data, position)
        yield value - (1 << 64) if value >> 63 else value

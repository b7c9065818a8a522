"""Which of its two int8 convolutions onnxruntime takes: the direct one, or im2col and a matrix product.

On x86 it convolves int8 weights directly, with VNNI at best, whenever their zero point is 0, and only otherwise turns
the convolution into a matrix product, which is the one that uses AMX where the processor has it. Weights and zero point
may both be raised by one: their difference, which is all that counts, stays the same, and so does every answer, to the
last bit. On a Xeon with AMX that halves what a wide convolution takes; without AMX it costs a fifth.

A narrow convolution fills no tile: its 16 outputs are a quarter of one, and 3 input channels are gathered nine bytes at
a time. So neighbours in a row of the output are computed together, as channels of one position. Their kernel is as wide
as all that they look at, with zeros where one does not look, and strides over all of them; their bytes lie where they
would lie alone, and a reshape says so. ResNet-20 multiplies twice as much then, in four fifths of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from bundle.errors import BundleError
from bundle.wire import write

from service.engine.onnx_file import GRAPH, Array, Graph, Integers, Node, node_of, tensor_of

_LEAST_PRODUCTS = 256
"""Products in one output, input channels x height x width of the kernel, from which the matrix product was faster."""
_LEAST_OUTPUTS, _LEAST_ROW = 64, 48
"""Channels of output, and bytes in a row of the kernel, up to which it was faster to compute neighbours together."""
_HIGHEST = 126
"""Of weights that may be raised by one; quantisation to 7 bits leaves 64."""
_MOST_BYTES = 1 << 30
"""Of a graph: onnxruntime writes none above 2 GiB."""
_KIND, _DOMAIN = "QLinearConv", "com.microsoft"
_FIXED = {"channels_last": 1, "group": 1, "dilations": [1, 1], "auto_pad": "NOTSET"}


def has_tiles() -> bool:
    """Return whether the processor multiplies int8 matrices in tiles (AMX)."""
    try:
        return " amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def by_matrix_product(model: bytes) -> bytes | None:
    """Return an equal graph whose int8 convolutions run as matrix products; None where none would.

    `model` is an ONNX file as bytes. What comes back is what onnxruntime makes of it on this machine, and for no other.
    Anything that is not surely a convolution of constant int8 weights with zero point 0 stays as it is.

    Raises `BundleError` where onnxruntime opens no such graph, or there is no memory for it.
    """
    if len(model) > _MOST_BYTES:
        return None
    optimised = _optimised(model)
    graph = Graph(memoryview(optimised))
    found = {index: one for index, node in enumerate(graph.nodes) if (one := _Convolution.of(node, graph))}
    if not found:
        return None
    widths = _widths(optimised, [one.output for one in found.values()])
    replaced: dict[int, list[bytes]] = {}
    for index, one in found.items():
        together = one.neighbours(widths[one.output])
        if together > 1 or one.products >= _LEAST_PRODUCTS:
            replaced[index] = list(one.rewritten(together))
    return graph.written(replaced) if replaced else None


def _optimised(model: bytes) -> bytes:
    """Return the graph that onnxruntime runs in place of this one: an int8 convolution is one node, channels last."""
    try:
        with open(os.memfd_create("optimised"), "rb") as file:
            _open(model, optimized_model_filepath=f"/proc/self/fd/{file.fileno()}")
            return file.read()
    except OSError as error:
        raise BundleError(f"there is nowhere to write the graph anew: {error.strerror}") from None


def _widths(model: bytes, names: list[str]) -> dict[str, int]:
    """Return how many columns each of these outputs [n, height, width, channels] has; 0 where that is not known."""
    also = write(GRAPH, b"".join(write(12, write(1, name.encode())) for name in names))  # messages add up
    session = _open(model + also, graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    shapes = {output.name: output.shape for output in session.get_outputs()}
    return {name: shapes[name][2] if isinstance(shapes[name][2], int) else 0 for name in names}


def _open(model: bytes, **settings: object) -> Any:
    """Open a session that runs nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_prepacking", "1")
    for name, value in settings.items():
        setattr(options, name, value)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the native layer raises several unrelated types
        raise BundleError(f"onnxruntime cannot rewrite the graph: {str(error).splitlines()[0][:200]}") from None


@dataclass(frozen=True)
class _Convolution:
    """An int8 convolution, channels last, by weights that are known and have zero point 0."""

    inputs: list[str]
    output: str
    weights: Array
    """int8 [outputs, inputs, height, width]"""
    scale: Array
    bias: Array | None
    strides: list[int]
    pads: list[int]

    @classmethod
    def of(cls, node: Node, graph: Graph) -> _Convolution | None:
        """Return what a node is if it is surely one, and else None."""
        attributes = {"group": 1, "dilations": [1, 1], "auto_pad": "NOTSET", **node.attributes}
        strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
        if (node.kind, node.domain) != (_KIND, _DOMAIN) or not isinstance(strides, list) or not isinstance(pads, list):
            return None
        if any(attributes.get(name) != value for name, value in _FIXED.items()):
            return None
        constants = [graph.constants.get(name) for name in (*node.inputs[3:6], *node.inputs[8:])]
        if any(values is None for values in constants):
            return None
        weights, scale, zero, *bias = cast("list[Array]", constants)
        if weights.dtype != np.int8 or weights.ndim != 4 or weights.max(initial=0) > _HIGHEST or zero.any():
            return None
        return cls(node.inputs, node.outputs[0], weights, scale, bias[0] if bias else None, strides, pads)

    @property
    def products(self) -> int:
        """Products in one output."""
        return prod(self.weights.shape[1:])

    def neighbours(self, width: int) -> int:
        """Return how many neighbours of an output of so many columns it is faster to compute together."""
        outputs, channels, _, kernel = self.weights.shape
        if kernel == 1:
            return 1
        together = 1
        while width and width % (2 * together) == 0:
            row = channels * (kernel + (together - 1) * self.strides[1])
            if outputs * together >= _LEAST_OUTPUTS and row >= _LEAST_ROW:
                break
            together *= 2
        return together

    def rewritten(self, together: int) -> Iterator[bytes]:
        """Yield fields of a graph that compute the same, so many neighbours at a time."""
        outputs, channels, height, kernel = self.weights.shape
        down, across = self.strides
        wide = kernel + (together - 1) * across
        weights = np.ones((together, outputs, channels, height, wide), np.int8)  # the zero point: they weigh nothing
        for place in range(together):
            weights[place, ..., place * across : place * across + kernel] = self.weights + np.int8(1)
        constants = {
            3: weights.reshape(together * outputs, channels, height, wide),
            4: np.tile(self.scale, together) if self.scale.size > 1 else self.scale,
            5: np.ones(together * outputs, np.int8),
        }
        if self.bias is not None:
            constants[8] = np.tile(self.bias, together)
        names = {place: f"{self.output}/{place}" for place in constants}
        yield from (tensor_of(names[place], values) for place, values in constants.items())
        inputs = [names.get(place, name) for place, name in enumerate(self.inputs)]
        attributes: Integers = {
            "channels_last": 1,
            "kernel_shape": [height, wide],
            "strides": [down, across * together],
            "pads": self.pads,
        }
        if together == 1:
            yield node_of(_KIND, _DOMAIN, inputs, self.output, attributes)
            return
        beside, shape = f"{self.output}/together", f"{self.output}/shape"
        yield node_of(_KIND, _DOMAIN, inputs, beside, attributes)
        yield tensor_of(shape, np.array([0, 0, -1, outputs], np.int64))  # batch and height as they are
        yield node_of("Reshape", "", [beside, shape], self.output, {})

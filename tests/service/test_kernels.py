"""Which of onnxruntime's int8 convolutions runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.errors import BundleError
from bundle.store import Store
from service.engine import kernels, loading
from service.engine.devices import CPU
from service.engine.kernels import by_matrix_product
from service.settings import Settings

SHIPPED = Store(Path(__file__).parents[2] / "exported")


def quantised(
    channels: int = 64,
    outputs: int = 8,
    *,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    size: int | str = 8,
    per_channel: bool = True,
    biased: bool = True,
    highest: int = 64,
    zero: int = 0,
    kind: type = np.int8,
    group: int = 1,
    dilation: int = 1,
) -> bytes:
    """Build a quantised convolution of square images, and ways to be unfit.

    Weights of 7 bits: with more, a processor without VNNI adds up in 16 bits, and its sums end at 32767.
    """
    random = np.random.default_rng(0)
    weights = random.integers(0 if kind is np.uint8 else -highest, highest, (outputs, channels // group, *kernel))
    weights[0, 0, 0, 0] = highest
    many = outputs if per_channel else ()
    scales = np.asarray(random.uniform(5e-4, 1e-3, many), np.float32)
    constants = {
        "weights": weights.astype(kind),
        "scales": scales,
        "zeros": np.full(many, zero, kind),
        "bias": random.integers(-9999, 9999, outputs).astype(np.int32),
        "bias_scales": np.asarray(scales * np.float32(0.02), np.float32),
        "bias_zeros": np.zeros(many, np.int32),
        "x_scale": np.float32(0.02),
        "x_zero": np.uint8(101),
        "y_scale": np.float32(0.03),
        "y_zero": np.uint8(113),
    }
    axis = {"axis": 0} if per_channel else {}
    how = {"strides": [stride] * 2, "pads": pads, "group": group, "dilations": [dilation] * 2}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["qx"]),
        helper.make_node("DequantizeLinear", ["qx", "x_scale", "x_zero"], ["dx"]),
        helper.make_node("DequantizeLinear", ["weights", "scales", "zeros"], ["w"], **axis),
        helper.make_node("DequantizeLinear", ["bias", "bias_scales", "bias_zeros"], ["b"], **axis),
        helper.make_node("Conv", ["dx", "w", "b"] if biased else ["dx", "w"], ["c"], **how),
        helper.make_node("QuantizeLinear", ["c", "y_scale", "y_zero"], ["qy"]),
        helper.make_node("DequantizeLinear", ["qy", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes if biased else [node for node in nodes if "b" not in node.output],
        "one convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, None, None])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def convolutions(model: bytes) -> list[tuple[tuple[int, ...], int]]:
    """Return the shape and the zero point of each int8 convolution's weights."""
    graph = onnx.load_from_string(model).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = [node for node in graph.node if node.op_type == "QLinearConv"]
    return [(constants[node.input[3]].shape, int(constants[node.input[5]].reshape(-1)[0])) for node in found]


def answers(model: bytes, name: str, values: np.ndarray) -> np.ndarray:
    answer: np.ndarray = ort.InferenceSession(model).run(None, {name: values})[0]
    return answer


@pytest.mark.parametrize(
    ("shape", "together"),
    [
        ({"channels": 64, "outputs": 64}, 1),
        ({"channels": 32, "outputs": 32}, 2),
        ({"channels": 16, "outputs": 16}, 4),
        ({"channels": 16, "outputs": 16, "size": 10}, 2),  # as many as divide a row
        ({"channels": 16, "outputs": 16, "size": 11}, None),
        ({"channels": 3, "outputs": 16, "size": 32}, 16),  # until a row of the kernel has 48 bytes
        ({"channels": 3, "outputs": 64, "size": 32, "kernel": (7, 7), "stride": 2, "pads": (3, 3, 3, 3)}, 8),
        ({"channels": 16, "outputs": 32, "stride": 2}, 2),
        ({"channels": 16, "outputs": 32, "stride": 2, "size": 9, "pads": (0, 0, 0, 0)}, 2),
        ({"channels": 16, "outputs": 32, "stride": 3, "size": 13, "pads": (0, 1, 0, 0)}, 2),  # a column is left over
        ({"channels": 16, "outputs": 32, "kernel": (1, 5), "pads": (0, 2, 0, 2)}, 2),
        ({"channels": 16, "outputs": 32, "per_channel": False}, 2),
        ({"channels": 16, "outputs": 32, "biased": False}, 2),
        ({"channels": 256, "outputs": 16, "kernel": (1, 1), "pads": (0, 0, 0, 0)}, 1),
        ({"channels": 255, "outputs": 16, "kernel": (1, 1), "pads": (0, 0, 0, 0)}, None),
        ({"channels": 64, "outputs": 16, "size": "s"}, 1),  # of images of any size the width is not known
        ({"channels": 16, "outputs": 16, "size": "s"}, None),
    ],
    ids=str,
)
def test_every_form_gives_the_same_answers(shape: dict[str, Any], together: int | None) -> None:
    model = quantised(**shape)
    changed = by_matrix_product(model)
    if together is None:
        assert changed is None
        return
    assert changed is not None
    [((outputs, channels, _, wide), zero)] = convolutions(changed)
    kernel, stride = shape.get("kernel", (3, 3))[1], shape.get("stride", 1)
    assert (outputs, channels) == (shape["outputs"] * together, shape["channels"])
    assert (wide, zero) == (kernel + (together - 1) * stride, 1)
    size = shape.get("size", 8)
    edge = 8 if isinstance(size, str) else size
    x = np.random.default_rng(1).uniform(-2, 3, (3, shape["channels"], edge, edge)).astype(np.float32)
    one, other = (answers(graph, "x", x) for graph in (model, changed))
    assert len(np.unique(one)) > 50  # else the test would show little
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "unfit",
    [{"highest": 127}, {"zero": 3}, {"kind": np.uint8}, {"group": 2}, {"dilation": 2, "pads": (2, 2, 2, 2)}],
    ids=str,
)
def test_what_is_not_surely_safe_stays(unfit: dict[str, Any]) -> None:
    assert by_matrix_product(quantised(**unfit)) is None


def test_what_onnxruntime_cannot_open_is_said() -> None:
    with pytest.raises(BundleError, match="onnxruntime cannot rewrite the graph"):
        by_matrix_product(b"no graph")


def test_where_there_is_no_memory_for_it_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(BundleError, match="nowhere to write the graph anew: Operation not permitted"):
        by_matrix_product(quantised())


def test_a_graph_too_large_to_be_written_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_MOST_BYTES", 1000)
    assert by_matrix_product(quantised()) is None


def test_a_graph_without_int8_stays() -> None:
    assert by_matrix_product(SHIPPED.open("cifar10").read("model.onnx")) is None


def test_the_shipped_network_answers_the_same() -> None:
    """All its convolutions change; the tolerance is for processors that add in 16 bits."""
    model = SHIPPED.open("cifar10").read("model.int8.onnx")
    changed = by_matrix_product(model)
    assert changed is not None
    shapes = [shape for shape, zero in convolutions(changed) if zero == 1]
    assert len(shapes) == 19
    assert shapes[0] == (16 * 16, 3, 3, 3 + 15)
    assert shapes.count((4 * 16, 16, 3, 3 + 3)) == 6
    assert shapes.count((2 * 32, 32, 3, 3 + 1)) == 5
    assert shapes.count((64, 64, 3, 3)) == 5
    rows = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    one, other = (answers(graph, "image", rows) for graph in (model, changed))
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(("product_s", "chosen"), [(0.5, True), (0.99, False), (2.0, False)])
def test_the_faster_one_runs(monkeypatch: pytest.MonkeyPatch, product_s: float, chosen: bool) -> None:
    monkeypatch.setattr(loading, "has_tiles", lambda: True)
    monkeypatch.setattr(loading, "_in_turns", lambda *_: [[1.0], [product_s]])
    assert _load().matrix_products is chosen


def test_without_tiles_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(loading, "has_tiles", lambda: False)
    monkeypatch.setattr(loading, "by_matrix_product", never)
    assert not _load().matrix_products


def backwards(model: bytes) -> bytes:
    """Return a graph that prefers what this one likes least."""
    changed = onnx.load_from_string(model)
    last = next(node for node in changed.graph.node if node.op_type == "Softmax")
    logits = last.input[0]
    last.input[0] = "backwards"
    at = list(changed.graph.node).index(last)
    changed.graph.node.insert(at, helper.make_node("Neg", [logits], ["backwards"]))
    return bytes(changed.SerializeToString())


@pytest.mark.parametrize("other", [backwards, lambda _: b"no graph"], ids=["other answers", "no graph"])
def test_where_it_fails_the_file_as_it_is_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, other: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(loading, "has_tiles", lambda: True)
    monkeypatch.setattr(loading, "by_matrix_product", other)
    assert not _load().matrix_products
    assert "kernels.refused" in caplog.text


def _load() -> loading.Network:
    settings = Settings(store=SHIPPED.root, warmup_s=0.01)
    network, _ = loading.prepare(SHIPPED.open("cifar10"), "int8", CPU, loading.Threading(1, 1, 1), settings)
    return network

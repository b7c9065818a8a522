"""Which of onnxruntime's int8 convolutions runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.store import Store
from service.engine import loading
from service.engine.devices import CPU
from service.engine.kernels import LEAST_PRODUCTS, by_matrix_product
from service.settings import Settings

SHIPPED = Store(Path(__file__).parents[2] / "exported")
NARROW, WIDE = LEAST_PRODUCTS // 4 - 1, LEAST_PRODUCTS // 4  # channels below a kernel of 2x2


def quantised(
    channels: int = WIDE,
    *,
    highest: int = 64,
    zero: int = 0,
    kind: type = np.int8,
    raw: bool = True,
    shared: bool = False,
    read_twice: bool = False,
    read_in_a_branch: bool = False,
) -> bytes:
    """Build a convolution of 4 outputs over a kernel of 2x2, its weights dequantised, and ways to be unfit."""
    weights = np.random.default_rng(0).integers(0, highest, (4, channels, 2, 2)).astype(kind)
    weights[0, 0, 0, 0] = highest
    zeros = np.full(4, zero, kind)
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    if shared:
        nodes.append(helper.make_node("DequantizeLinear", ["others", "scale", "zero"], ["o"], axis=0))
    if read_twice:
        nodes.append(helper.make_node("Identity", ["w"], ["o"]))
    if read_in_a_branch:
        output = helper.make_tensor_value_info("o", TensorProto.INT8, [4, channels, 2, 2])
        branch = helper.make_graph([helper.make_node("Identity", ["weights"], ["o"])], "branch", [], [output])
        nodes.append(helper.make_node("If", ["yes"], ["o"], then_branch=branch, else_branch=branch))
    packed = helper.make_tensor("zero", numpy_helper.from_array(zeros).data_type, zeros.shape, zeros.tolist())
    graph = helper.make_graph(
        nodes,
        "one convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 7, 7])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(weights, "others"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.full(4, 0.01, np.float32), "scale"),
            numpy_helper.from_array(zeros, "zero") if raw else packed,
        ],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def tensors(model: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


@pytest.mark.parametrize("raw", [True, False])
def test_weights_and_their_zero_point_are_raised_together(raw: bool) -> None:
    model = quantised(raw=raw)
    changed = by_matrix_product(model)
    assert changed is not None
    before, after = tensors(model), tensors(changed)
    assert (after["weights"] == before["weights"] + 1).all()
    assert (after["zero"] == 1).all()
    assert all((after[name] == before[name]).all() for name in ("others", "scale"))


@pytest.mark.parametrize(
    "unfit",
    [
        {"channels": NARROW},
        {"highest": 127},
        {"zero": 3},
        {"kind": np.uint8},
        {"shared": True},
        {"read_twice": True},
        {"read_in_a_branch": True},
    ],
    ids=str,
)
def test_what_is_narrow_or_not_surely_safe_stays(unfit: dict[str, object]) -> None:
    assert by_matrix_product(quantised(**unfit)) is None  # type: ignore[arg-type]


def test_a_graph_without_int8_stays() -> None:
    assert by_matrix_product(SHIPPED.open("cifar10").read("model.onnx")) is None


def test_the_shipped_network_answers_the_same() -> None:
    """Its wide convolutions change, and only they; the tolerance is for processors that add in 16 bits."""
    model = SHIPPED.open("cifar10").read("model.int8.onnx")
    changed = by_matrix_product(model)
    assert changed is not None
    before, after = tensors(model), tensors(changed)
    different = {name for name in before if not np.array_equal(before[name], after[name])}
    products = {name: int(np.prod(before[name].shape[1:])) for name in different if before[name].ndim == 4}
    assert len(different) == 2 * len(products)
    assert len(products) == 11  # five of 32 to 32 channels, one of 32 to 64, five of 64 to 64
    assert min(products.values()) >= LEAST_PRODUCTS
    rows = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    one, other = (ort.InferenceSession(m).run(["probabilities"], {"image": rows})[0] for m in (model, changed))
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


def _load() -> loading.Network:
    settings = Settings(store=SHIPPED.root, warmup_s=0.01)
    network, _ = loading.prepare(SHIPPED.open("cifar10"), "int8", CPU, loading.Threading(1, 1, 1), settings)
    return network

"""int8 keeps in float what accuracy needs there, and nothing that was not asked for is quantised."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.front import Front
from bundle.graph import seal
from bundle.stamp import Stamp
from training.recipe import Export
from training.selection import Material, choose_variants
from training.variants import make_int8

COLORS = ("red", "green", "blue")
STAMP = Stamp(COLORS)
FRONT = Front("NCHW", "RGB", 255.0, (0.0,) * 3, (1.0,) * 3)
ROLES = {"logits": "logits"}
SETTINGS = Export(variants=("int8",), latency_batch_sizes=(1,))


def delicate_core():
    """Build a network that tells colours by small values which lie in one tensor with huge ones.

    One range for the whole tensor, as int8 has, leaves nothing of the small values.
    """
    outlier = np.concatenate([np.eye(3), np.full((1, 3), 3000.0)]).astype(np.float32)
    weights = {
        "same": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "with_outlier": outlier.reshape(4, 3, 1, 1),
        "without_outlier": np.eye(3, 4, dtype=np.float32).reshape(3, 4, 1, 1),
        "fc": (20 * (np.eye(3) - 1 / 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "same"], ["a"], name="harmless"),
        helper.make_node("Conv", ["a", "with_outlier"], ["b"], name="writes"),
        helper.make_node("Conv", ["b", "without_outlier"], ["c"], name="reads"),
        helper.make_node("GlobalAveragePool", ["c"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "delicate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def material():
    random = np.random.default_rng(0)
    targets = np.arange(60) % 3
    rows = random.integers(60, 120, (60, 8, 8, 3)).astype(np.uint8)
    rows[np.arange(60), :, :, targets] += 40
    core = delicate_core()
    fp32 = bytes(seal(core, FRONT, ROLES, STAMP).SerializeToString())
    return Material(core, FRONT, ROLES, STAMP, fp32, rows[:30], rows[:30], targets[:30], rows[30:], targets[30:])


def test_layers_that_int8_harms_stay_float_until_accuracy_is_kept(material):
    variant = choose_variants(material, SETTINGS).variants["int8"]
    assert variant.accuracy.top1 == 1.0
    assert {"core/writes", "core/reads", "core/head"} <= set(variant.float_nodes)


def test_without_that_int8_is_dropped_with_its_reason(material, monkeypatch):
    import training.selection as selection

    monkeypatch.setattr(selection, "FLOAT_STEPS", ())
    chosen = choose_variants(material, SETTINGS)
    assert list(chosen.variants) == ["fp32"]
    assert chosen.dropped["int8"].accuracy.top1 < 0.9
    assert "below fp32; the budget is 0.005" in chosen.dropped["int8"].reason


def test_nodes_that_stay_float_take_and_give_plain_floats(material):
    graph = onnx.load_from_string(make_int8(material.fp32, material.calibration, ("core/reads", "core/head"))).graph
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    weights = {node.name: node.input[1] in quantised for node in graph.node if node.op_type in ("Conv", "Gemm")}
    assert weights == {"core/harmless": True, "core/writes": True, "core/reads": False, "core/head": False}

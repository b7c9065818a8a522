"""Class activation maps are cut out of any graph whose head reads a global average, and out of no other."""

import numpy as np
import onnx
import pytest
from factory import color_core
from onnx import helper

from bundle import session
from bundle.explain import cam_core
from bundle.front import Front
from bundle.graph import seal
from bundle.stamp import Stamp

FRONT = Front("NCHW", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = ("red", "green", "blue")


def images(count=4):
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), np.uint8)


def run(core, roles):
    return session.run(session.open_session(seal(core, FRONT, roles, Stamp(LABELS)).SerializeToString()), images())


def head_as_matmul(core):
    """The same network as Keras and older exporters write its head: MatMul, then Add."""
    gemm = core.graph.node.pop()
    matrix = next(t for t in core.graph.initializer if t.name == "fc")
    matrix.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(onnx.numpy_helper.to_array(matrix).T), "fc"))
    core.graph.node.append(helper.make_node("MatMul", [gemm.input[0], "fc"], ["product"], name="product"))
    core.graph.node.append(helper.make_node("Add", ["product", "bias"], ["logits"], name="add"))
    return core


@pytest.mark.parametrize("change", [lambda core: core, head_as_matmul], ids=["gemm", "matmul"])
def test_the_mean_of_a_map_is_the_logit_less_the_bias(change):
    core = change(color_core())
    maps = run(cam_core(core, "logits"), {"cam": "cam"})["cam"]
    assert maps.shape == (4, 3, 8, 8)
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), run(core, {"logits": "logits"})["logits"], atol=1e-5)


def test_a_head_over_something_else_has_no_map():
    core = color_core()
    pool = next(node for node in core.graph.node if node.op_type == "GlobalAveragePool")
    pool.op_type = "GlobalMaxPool"
    assert cam_core(core, "logits") is None

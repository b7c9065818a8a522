"""Free a graph from the batch size it was exported with, where that can be shown to be right."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from bundle import session
from bundle.errors import BundleError
from bundle.front import Front
from bundle.graph import dims_of, seal
from bundle.stamp import Stamp

PROBE_SIZES = (1, 2, 3, 5)
TOLERANCE = 1e-4
"""Relative to the largest value: what another order of summation may change."""


def free_batch(
    core: onnx.ModelProto, front: Front, roles: dict[str, str], stamp: Stamp, *, size: tuple[int, int] | None
) -> tuple[onnx.ModelProto, int | None]:
    """Return the core with an open batch dimension and None, or the core as it is and the batch size it is bound to.

    Constants in Reshape nodes that repeat the batch size are opened too. The open graph must give every image, in
    batches of 1, 2, 3 and 5, what the given graph gives it; else the batch stays fixed.
    """
    batch = dims_of(core.graph.input[0])[0]
    bound = batch if isinstance(batch, int) and batch > 0 else 1
    opened = _open(core, bound)
    try:
        expected = _answers(_bind(core, bound), front, roles, stamp, size, bound)
        found = [_answers(opened, front, roles, stamp, size, n) for n in PROBE_SIZES]
    except BundleError:
        _answers(_bind(core, bound), front, roles, stamp, size, bound)  # a graph that runs at no size is refused here
        return _bind(core, bound), bound
    if all(_agree(expected[name], got[name]) for got in found for name in expected):
        return opened, None
    return _bind(core, bound), bound


def _open(core: onnx.ModelProto, bound: int) -> onnx.ModelProto:
    model = _rewritten(core)
    for tensor in _reshape_targets(model):
        target = numpy_helper.to_array(tensor).copy()
        if target.ndim == 1 and len(target) > 1 and target[0] == bound:
            target[0] = 0  # "as in the input", which is the batch
            tensor.CopyFrom(numpy_helper.from_array(target, tensor.name))
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_param = "batch"
    for value in model.graph.output:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
    return onnx.shape_inference.infer_shapes(model)


def _bind(core: onnx.ModelProto, bound: int) -> onnx.ModelProto:
    model = _rewritten(core)
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_value = bound
    return onnx.shape_inference.infer_shapes(model)


def _rewritten(core: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(core)
    del model.graph.value_info[:]
    return model


def _reshape_targets(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List the constant shapes that Reshape nodes use; one with `allowzero` means its zeros and is left alone."""
    names = {
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Reshape" and not any(a.name == "allowzero" and a.i for a in node.attribute)
    }
    constants = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant" and node.output[0] in names
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return [*[tensor for tensor in model.graph.initializer if tensor.name in names], *constants]


def _answers(
    core: onnx.ModelProto,
    front: Front,
    roles: dict[str, str],
    stamp: Stamp,
    size: tuple[int, int] | None,
    batch: int,
) -> session.Outputs:
    opened = session.open_session(seal(core, front, roles, stamp, size=size).SerializeToString(), "the imported graph")
    shape = session.input_spec(opened).shape[1:]
    count = max(PROBE_SIZES)
    rows = np.random.default_rng(0).integers(0, 256, (count, *map(int, shape)), np.uint8)
    found = session.run(opened, rows, batch_size=batch)
    for name, values in found.items():
        if len(values) != count:
            raise BundleError(f"{name} has {len(values)} rows for {count} images")
    return found


def _agree(expected: np.ndarray, got: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return expected.shape == got.shape and float(np.abs(expected - got).max()) <= TOLERANCE * scale

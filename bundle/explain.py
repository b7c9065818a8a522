"""Class activation maps as a graph of their own, cut out of a classifier whose head reads a global average.

Zhou et al. 2016, https://arxiv.org/abs/1512.04150, section 2: the weights of the last linear layer, laid over the last
feature map. The mean of a map is its class's logit less the bias.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Identity", "Dropout")
_AVERAGES = ("GlobalAveragePool", "ReduceMean")
_Makers = dict[str, onnx.NodeProto]


def cam_core(core: onnx.ModelProto, logits: str) -> onnx.ModelProto | None:
    """Return a core with the one output `cam` [batch, classes, h, w], or None where the graph is not of that kind.

    The kind: `logits` come from one linear layer over the global average of a feature map, all float32 and NCHW.
    """
    makers: _Makers = {output: node for node in core.graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in core.graph.initializer}
    head = linear_head(makers, weights, logits)
    if head is None:
        return None
    pooled, matrix = head
    source = _feature_map(makers, weights, pooled)
    if source is None or matrix.dtype != np.float32:
        return None
    return _cut(core, makers, source, matrix)


def linear_head(
    makers: _Makers, weights: dict[str, onnx.TensorProto], logits: str
) -> tuple[str, npt.NDArray[np.float32]] | None:
    """Return what the last linear layer reads and its matrix [classes, d], or None where there is no such layer."""
    node = makers.get(_through(makers, logits, _RESHAPES))
    if node is not None and node.op_type == "Add":
        terms = [makers[name] for name in node.input if name in makers]
        node = terms[0] if len(terms) == 1 else None
    if node is None or node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights:
        return None
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if settings.get("transA") or settings.get("alpha", 1.0) != 1.0:
        return None
    matrix = numpy_helper.to_array(weights[node.input[1]])
    return node.input[0], matrix if settings.get("transB") else np.ascontiguousarray(matrix.T)


def _feature_map(makers: _Makers, weights: dict[str, onnx.TensorProto], pooled: str) -> str | None:
    node = makers.get(_through(makers, pooled, _RESHAPES))
    if node is None or node.op_type not in _AVERAGES:
        return None
    if node.op_type == "ReduceMean":
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes = settings.get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in weights:
            axes = numpy_helper.to_array(weights[node.input[1]]).tolist()
        if sorted(axes or []) not in ([2, 3], [-2, -1]):
            return None
    return str(node.input[0])


def _through(makers: _Makers, name: str, kinds: tuple[str, ...]) -> str:
    """Follow a value back through nodes that only give it another shape."""
    while name in makers and makers[name].op_type in kinds:
        name = makers[name].input[0]
    return name


def _cut(core: onnx.ModelProto, makers: _Makers, source: str, matrix: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Keep what leads to `source` and lay the head's weights over it as a 1x1 convolution."""
    needed: set[str] = set()
    waiting = [source]
    while waiting:
        name = waiting.pop()
        if name and name not in needed:
            needed.add(name)
            waiting += list(makers[name].input) if name in makers else []
    model = onnx.ModelProto()
    model.CopyFrom(core)
    graph = model.graph
    nodes = [n for n in core.graph.node if needed.intersection(n.output)]
    tensors = [t for t in core.graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend([*nodes, helper.make_node("Conv", [source, "cam_weights"], ["cam"], name="cam")])
    graph.initializer.extend([*tensors, numpy_helper.from_array(matrix[:, :, None, None], "cam_weights")])
    graph.output.append(helper.make_tensor_value_info("cam", TensorProto.FLOAT, [None, len(matrix), None, None]))
    return model

"""Seal a classifier: uint8 pixels in, probabilities out, with everything between them in one ONNX graph.

The same `seal` serves networks exported from training and graphs imported from elsewhere. Only this module, the
importer and the variants edit graphs; the service runs what they made, at most with the zero points of int8 weights
moved (`service.engine.kernels`), and never needs the onnx library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from bundle.errors import BundleError
from bundle.front import Front
from bundle.stamp import Stamp

CORE = "core/"
"""Prefix of every name that came from the core; what `seal` adds starts with `seal/`."""
MAX_IR_VERSION = 10
MIN_OPSET = 7

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_ROLES = ("probabilities", "logits", "embedding", "cam")


def seal(
    core: onnx.ModelProto, front: Front, roles: Mapping[str, str], stamp: Stamp, *, size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """Put `image` (uint8 [batch, height, width, channels]) in front of a core and `probabilities` behind it.

    `roles` says which outputs of the core are `logits`, `probabilities`, `embedding` or `cam`. Temperature and softmax
    follow `logits` where the core has no `probabilities` of its own. `size` (height, width) is needed where the core
    leaves it open. Raises `BundleError` naming what does not fit.
    """
    unknown = [role for role in roles if role not in _ROLES]
    if unknown:
        raise BundleError(f"unknown role {unknown[0]}; roles are {', '.join(_ROLES)}")
    model = compose.add_prefix(core, CORE)
    graph = model.graph
    drop_weight_inputs(model)
    _name_nodes(graph)
    entry = _only_input(graph)
    nodes = list(graph.node)
    shape = _image_shape(entry, front, size)
    front_nodes = _front(front, entry, graph, int(shape[2]))
    back_nodes, outputs = _back(model, {role: CORE + name for role, name in roles.items()}, stamp)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*front_nodes, *nodes, *back_nodes])
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, shape))
    graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in outputs)
    _name_batch(graph, shape[0])
    strip(model)
    helper.set_model_props(model, stamp.metadata())
    graph.name = "classifier"
    return model


def check(model: onnx.ModelProto) -> None:
    """Run the onnx checker with full shape inference. Raises `BundleError` with its first complaint."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the ONNX checker refuses the graph: {str(error).splitlines()[0]}") from None


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what exporters leave behind: doc strings, source lines of the exporting machine, stale value shapes."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:], graph.value_info[:]
        for part in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
            part.doc_string = ""
            del part.metadata_props[:]
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set that the graph uses."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0))


def parameters_of(model: onnx.ModelProto) -> int:
    """Count the numbers in floating-point initializers."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in _FLOATS)


def drop_weight_inputs(model: onnx.ModelProto) -> None:
    """Stop listing initializers as inputs, as files of IR version 3 had to."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = min(max(model.ir_version, 4), MAX_IR_VERSION) if opset_of(model) < 21 else MAX_IR_VERSION


def dims_of(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """Return a value's dimensions: a number, a name, or None where neither is known."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """List a graph and the graphs inside its control-flow nodes."""
    attributes = [a for node in graph.node for a in node.attribute]
    inner = [sub for a in attributes for sub in [*a.graphs, *([a.g] if a.HasField("g") else [])]]
    return [graph, *[found for sub in inner for found in _graphs(sub)]]


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: quantisation chooses nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name.removeprefix(CORE) or node.name in seen:
            node.name = f"{CORE}{node.op_type}_{index}"
        seen.add(node.name)


def _only_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    if len(graph.input) != 1:
        names = ", ".join(value.name.removeprefix(CORE) for value in graph.input) or "none"
        raise BundleError(f"a classifier takes one input, the image; this graph takes {len(graph.input)}: {names}")
    entry: onnx.ValueInfoProto = graph.input[0]
    return entry


def _image_shape(entry: onnx.ValueInfoProto, front: Front, size: tuple[int, int] | None) -> list[int | str]:
    dims = dims_of(entry)
    if len(dims) != 4:
        raise BundleError(f"the input has {len(dims)} dimensions; an image classifier takes 4 ({front.layout})")
    order = (0, 2, 3, 1) if front.layout == "NCHW" else (0, 1, 2, 3)
    batch, height, width, channels = (dims[axis] for axis in order)
    if isinstance(channels, int) and channels != front.channels:
        raise BundleError(
            f"the input {dims} has {channels} channels in layout {front.layout}, but {front.color} images have"
            f" {front.channels}; is the layout right?"
        )
    known = [height if isinstance(height, int) else None, width if isinstance(width, int) else None]
    if size is None and None in known:
        raise BundleError(f"the input {dims} leaves height and width open; say the size of the images")
    for fixed, wanted in zip(known, size or known, strict=True):
        if fixed is not None and fixed != wanted:
            raise BundleError(f"the graph takes {height}x{width} images but the preprocessing makes {size}")
    rows, columns = size or (known[0], known[1])
    assert rows is not None and columns is not None
    return [batch if isinstance(batch, int) and batch > 0 else "batch", rows, columns, front.channels]


def _front(front: Front, entry: onnx.ValueInfoProto, graph: onnx.GraphProto, width: int) -> list[onnx.NodeProto]:
    """Build the nodes from `image` to the core's input; steps that would change nothing are left out.

    The arithmetic is done on the pixels as they lie in memory, before the transpose: in an int8 graph, whose
    convolutions take channels last, onnxruntime moves it there anyway.
    """
    steps: list[tuple[str, np.ndarray | None, dict[str, Any]]] = []
    wanted = entry.type.tensor_type.elem_type
    plain = front.divisor == 1 and not any(front.mean) and all(s == 1 for s in front.std)
    if not (plain and wanted == TensorProto.UINT8):
        steps.append(("Cast", None, {"to": TensorProto.FLOAT}))
        steps += _arithmetic(front, width)
        if wanted != TensorProto.FLOAT:
            steps.append(("Cast", None, {"to": wanted}))
    if front.layout == "NCHW":
        steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
    if front.color == "BGR":
        steps.append(("Gather", np.array([2, 1, 0], np.int64), {"axis": 1 if front.layout == "NCHW" else 3}))
    nodes, current = [], "image"
    for index, (op, constant, attributes) in enumerate(steps):
        inputs = [current]
        if constant is not None:
            graph.initializer.append(numpy_helper.from_array(constant, f"seal/constant_{index}"))
            inputs.append(f"seal/constant_{index}")
        current = entry.name if index == len(steps) - 1 else f"seal/front_{index}"
        nodes.append(helper.make_node(op, inputs, [current], name=f"seal/{op}_{index}", **attributes))
    return nodes or [helper.make_node("Identity", ["image"], [entry.name], name="seal/Identity_0")]


def _arithmetic(front: Front, width: int) -> list[tuple[str, np.ndarray | None, dict[str, Any]]]:
    """List `(x / divisor - mean) / std`, dividing as PyTorch does rather than multiplying by a rounded inverse.

    Mean and std, in the order of the image's channels, are repeated for every pixel of a row, [width, channels]:
    onnxruntime broadcasts runs as long as the constant, and runs of three take several times as long.
    """
    mean, std = (v[::-1] if front.color == "BGR" else v for v in (front.mean, front.std))
    steps: list[tuple[str, np.ndarray | None, dict[str, Any]]] = []
    if front.divisor != 1:
        steps.append(("Div", np.array(front.divisor, np.float32), {}))
    if any(mean):
        steps.append(("Sub", np.tile(np.array(mean, np.float32), (width, 1)), {}))
    if any(s != 1 for s in std):
        steps.append(("Div", np.tile(np.array(std, np.float32), (width, 1)), {}))
    return steps


def _back(
    model: onnx.ModelProto, roles: dict[str, str], stamp: Stamp
) -> tuple[list[onnx.NodeProto], list[tuple[str, list[int | str | None]]]]:
    """Build the nodes behind the core and list the sealed outputs with their dimensions."""
    values = {value.name: value for value in [*model.graph.output, *model.graph.value_info]}
    nodes: list[onnx.NodeProto] = []
    outputs: list[tuple[str, list[int | str | None]]] = []
    for role, source in roles.items():
        nodes += _expose(role, source, values.get(source))
        outputs.append((role, _output_dims(role, values.get(source), len(stamp.labels))))
    if "logits" in roles and "probabilities" not in roles:
        temperature = numpy_helper.from_array(np.array(stamp.temperature, np.float32), "seal/temperature")
        model.graph.initializer.append(temperature)
        nodes.append(helper.make_node("Div", ["logits", "seal/temperature"], ["seal/scaled"], name="seal/Temperature"))
        nodes.append(helper.make_node("Softmax", ["seal/scaled"], ["probabilities"], name="seal/Softmax", axis=1))
        outputs.insert(0, ("probabilities", [None, len(stamp.labels)]))
    return nodes, sorted(outputs, key=lambda output: _ROLES.index(output[0]))


def _expose(role: str, source: str, value: onnx.ValueInfoProto | None) -> list[onnx.NodeProto]:
    """Turn a core's value into a float32 output of that name; class vectors lose trailing 1x1 dimensions."""
    nodes, current = [], source
    if value is not None and value.type.tensor_type.elem_type == TensorProto.FLOAT16:
        nodes.append(helper.make_node("Cast", [current], [f"seal/{role}_float"], f"seal/Cast_{role}", to=1))
        current = f"seal/{role}_float"
    if role != "cam" and value is not None and len(dims_of(value)) > 2:
        nodes.append(helper.make_node("Flatten", [current], [f"seal/{role}_flat"], f"seal/Flatten_{role}", axis=1))
        current = f"seal/{role}_flat"
    return [*nodes, helper.make_node("Identity", [current], [role], f"seal/Output_{role}")]


def _output_dims(role: str, value: onnx.ValueInfoProto | None, classes: int) -> list[int | str | None]:
    if role in ("probabilities", "logits"):
        return [None, classes]
    dims = dims_of(value) if value is not None else [None, None]
    numbers = [d for d in dims[1:] if isinstance(d, int)]
    if role == "cam":
        return [None, classes, *dims[2:]]
    return [None, int(np.prod(numbers)) if len(numbers) == len(dims) - 1 else "features"]


def _name_batch(graph: onnx.GraphProto, batch: int | str) -> None:
    """Write the batch dimension of every output, which is the image's."""
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if isinstance(batch, int):
            dims[0].dim_value = batch
        else:
            dims[0].dim_param = batch

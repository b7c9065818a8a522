"""Smaller and faster forms of a sealed graph: int8 for CPUs, fp16 for GPUs. Only the core is changed."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from bundle.front import Front
from bundle.graph import CORE, seal
from bundle.stamp import VARIANT_KEY, Stamp
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_activation_error,
    create_activation_matching,
    modify_model_output_intermediate_tensors,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

CALIBRATION_BATCH = 32
SENSITIVITY_IMAGES = 16


def make_fp16(core: onnx.ModelProto, front: Front, roles: dict[str, str], stamp: Stamp) -> bytes:
    """Convert a core to float16 and seal it; pixels, temperature and softmax stay float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights too small for float16 become its smallest number
        half = convert_float_to_float16(copy, keep_io_types=True)
    return bytes(seal(half, front, roles, replace(stamp, variant="fp16")).SerializeToString())


def make_int8(sealed: bytes, rows: npt.NDArray[np.uint8], float_nodes: tuple[str, ...] = ()) -> bytes:
    """Quantise the core of a sealed fp32 graph with QDQ nodes; all but `float_nodes` of it become int8.

    `rows` are training images, uint8 [n, height, width, channels], from which the ranges of activations are taken
    (smallest and largest). Weights are int8 per output channel with 7 bits, because processors without VNNI add pairs
    of products in 16 bits and would saturate.
    """
    model = onnx.load_from_string(sealed)
    chosen = [n.name for n in model.graph.node if n.name.startswith(CORE) and n.name not in float_nodes]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Calibration(rows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
        )
        quantised = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props} | {VARIANT_KEY: "int8"}
    del quantised.metadata_props[:]
    onnx.helper.set_model_props(quantised, properties)
    return bytes(quantised.SerializeToString())


def head_nodes(sealed: bytes) -> tuple[str, ...]:
    """Name the node that makes the logits: it stays float, because its error is the answer's error."""
    graph = onnx.load_from_string(sealed).graph
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get("logits")
    while node is not None and node.op_type in ("Identity", "Flatten", "Reshape", "Cast"):
        node = makers.get(node.input[0])
    return (node.name,) if node is not None and node.name.startswith(CORE) else ()


def by_sensitivity(sealed: bytes, int8: bytes, rows: npt.NDArray[np.uint8]) -> list[str]:
    """List the convolutions and linear layers of the core, the one that quantisation harms most first.

    The harm is the signal-to-noise ratio of its output, int8 against fp32, on a few images.
    """
    few = rows[:SENSITIVITY_IMAGES]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        kept = [_activations(raw, Path(folder) / f"{name}.onnx", few) for name, raw in (("float", sealed), ("q", int8))]
    errors = compute_activation_error(create_activation_matching(kept[1], kept[0]))
    ratios = {tensor: float(np.mean(error["xmodel_err"])) for tensor, error in errors.items() if "xmodel_err" in error}
    layers = [n for n in onnx.load_from_string(sealed).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    known = [n for n in layers if n.name.startswith(CORE) and n.output[0] in ratios]
    return [node.name for node in sorted(known, key=lambda node: ratios[node.output[0]])]


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feed training images through the sealed uint8 input, a few at a time."""

    def __init__(self, rows: npt.NDArray[np.uint8], size: int = CALIBRATION_BATCH) -> None:
        self.batches: Iterator[npt.NDArray[np.uint8]] = iter(
            [rows[start : start + size] for start in range(0, len(rows), size)]
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def _activations(raw: bytes, path: Path, rows: npt.NDArray[np.uint8]) -> dict[str, Any]:
    source = path.with_suffix(".source.onnx")
    source.write_bytes(raw)
    modify_model_output_intermediate_tensors(str(source), str(path))
    return dict(collect_activations(str(path), _Calibration(rows)))


class _quiet:  # noqa: N801 - reads as a statement
    """Silence onnxruntime's advice to preprocess: the graphs here were optimised when they were exported."""

    def __enter__(self) -> None:
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)

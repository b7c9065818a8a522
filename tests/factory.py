"""Small real bundles for tests: a hand-built graph that names the dominant colour, sealed and published."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bundle.draft import Draft, SealedVariant
from bundle.front import Front
from bundle.graph import opset_of, parameters_of, seal
from bundle.manifest import Graph, Lineage, Preprocessing
from bundle.stamp import Stamp
from bundle.store import Bundle, Store

COLORS = ("red", "green", "blue")
RGB = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def color_image(color: str, size: tuple[int, int] = (8, 8), *, format: str = "PNG") -> bytes:
    """Encode a (width, height) image of one colour with some noise in it."""
    width, height = size
    noise = np.random.default_rng(len(color)).normal(0, 25, (height, width, 3))
    pixels = np.clip(np.array(RGB[color]) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def color_core(gain: float = 4.0, *, batch: int | str = "batch", size: int = 8) -> onnx.ModelProto:
    """Build a NCHW network: 1x1 convolution, global average (the embedding), one linear layer (the logits)."""
    weights = {
        "conv": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "fc": (gain * (np.eye(3) - 1 / 3)).astype(np.float32),
        "bias": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["conv_out"], name="conv", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["conv_out"], ["features"], name="relu"),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["embedding"], name="flat"),
        helper.make_node("Gemm", ["embedding", "fc", "bias"], ["logits"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 3, size, size]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def color_draft(name: str = "colors", *, gain: float = 4.0, size: int = 8, batch: int | str = "batch") -> Draft:
    """Return an unpublished bundle; `gain` makes versions that answer with other confidence."""
    core = color_core(gain, size=size, batch=batch)
    front = Front("NCHW", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    stamp = Stamp(COLORS)
    sealed = seal(core, front, {"logits": "logits", "embedding": "embedding"}, stamp)
    explain = seal(core, front, {"cam": "features"}, stamp)
    return Draft(
        name=name,
        labels=COLORS,
        preprocessing=preprocessing(size),
        graph=Graph(opset=opset_of(core), parameters=parameters_of(core), architecture="colors", producer="tests"),
        variants={"fp32": SealedVariant(sealed.SerializeToString())},
        golden={f"{color}.png": color_image(color, (2 * size + 3, 3 * size)) for color in COLORS},
        lineage=Lineage(
            kind="imported", recipe=None, seed=None, code=None, data_fingerprint=None, libraries={}, parent=None
        ),
        explain=explain.SerializeToString(),
    )


def preprocessing(size: int = 8) -> Preprocessing:
    """Return a recipe that stretches any image to a small square."""
    return Preprocessing(
        resize="stretch",
        resize_size=(size, size),
        crop_size=None,
        interpolation="bilinear",
        color="rgb",
        orientation="exif",
        alpha_background=(255, 255, 255),
        jpeg_draft=False,
    )


def publish_colors(
    root: Path | str, name: str = "colors", *, champion: bool = True, gain: float = 4.0, size: int = 8
) -> Bundle:
    """Publish the next version of a colour classifier (labels red, green, blue) into a store."""
    store = Store(root)
    bundle = color_draft(name, gain=gain, size=size).publish(store)
    if champion:
        store.promote(name, bundle.manifest.version)
    return bundle

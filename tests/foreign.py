"""Classifiers as other tools write them, and the code with which their makers would run them."""

from __future__ import annotations

import io

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images

LABELS = ("temple", "flower", "cat", "boat", "lamp")
RANDOM = np.random.default_rng(7)
KERNEL = RANDOM.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
HEAD = RANDOM.normal(0, 0.5, (8, 5)).astype(np.float32)
BIAS = RANDOM.normal(0, 0.1, 5).astype(np.float32)


def photographs():
    return [Image.fromarray(image) for image in load_sample_images().images]


def encoded(image, format="PNG"):
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def network(pixels):
    """The reference: 3x3 convolution with stride 2, ReLU, global average, one linear layer; pixels [n, 3, h, w]."""
    n, _, height, width = pixels.shape
    rows, columns = (height - 3) // 2 + 1, (width - 3) // 2 + 1
    patches = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    features = np.einsum("nchwij,ocij->nohw", patches.astype(np.float64), KERNEL, optimize=True)
    assert features.shape == (n, 8, rows, columns)
    return np.maximum(features, 0).mean(axis=(2, 3)) @ HEAD + BIAS


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def file_of(
    path,
    *,
    layout="NCHW",
    batch="N",
    size=64,
    dtype=TensorProto.FLOAT,
    softmax_inside=False,
    opset=13,
    weights_as_inputs=False,
    reshape_to=None,
    prefix="",
    four_dimensional=False,
    allowzero=False,
):
    """Write the network as another tool would, and return the path."""
    tensors = {"kernel": KERNEL, "head": HEAD, "bias": BIAS}
    nodes = _front(layout, dtype, prefix) + _core(tensors, reshape_to, allowzero)
    tail, last, shape = _back(tensors, batch, dtype, softmax_inside, corner_ends(opset) if four_dimensional else None)
    dims = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    inputs = [helper.make_tensor_value_info(f"{prefix}x", dtype, dims)]
    if weights_as_inputs:
        inputs += [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in tensors.items() if n != "corner"
        ]
    kind = TensorProto.FLOAT16 if dtype == TensorProto.FLOAT16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes + tail,
        "elsewhere",
        inputs,
        [helper.make_tensor_value_info(last, kind, shape)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    ir = 3 if weights_as_inputs else 8
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", max(opset, 14) if allowzero else opset)], ir_version=ir
    )
    path.write_bytes(model.SerializeToString())
    return path


def corner_ends(opset):
    """The target of the reshape to [n, 5, 1, 1]; a zero keeps a dimension since opset 7."""
    return [0, 5, 1, 1] if opset >= 7 else [-1, 5, 1, 1]


def _front(layout, dtype, prefix):
    """Bring the input into NCHW and float32, and convolve it."""
    nodes, current = [], f"{prefix}x"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [current], ["nchw"], perm=[0, 3, 1, 2]))
        current = "nchw"
    if dtype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [current], ["wide"], to=TensorProto.FLOAT))
        current = "wide"
    return [
        *nodes,
        helper.make_node("Conv", [current, "kernel"], ["conv"], strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
    ]


def _core(tensors, reshape_to, allowzero):
    """From the pooled features to the scores, by Flatten or by a Reshape to a given shape."""
    if reshape_to is not None:
        tensors["target"] = np.array(reshape_to, np.int64)
        unopenable = {"allowzero": 1} if allowzero else {}
        flat = helper.make_node("Reshape", ["pool", "target"], ["flat"], **unopenable)
    else:
        flat = helper.make_node("Flatten", ["pool"], ["flat"])
    return [flat, helper.make_node("Gemm", ["flat", "head", "bias"], ["scores"])]


def _back(tensors, batch, dtype, softmax_inside, corner):
    """What comes behind the scores; with the name and the shape of the output."""
    nodes, last, shape = [], "scores", [batch, 5]
    if softmax_inside:
        nodes.append(helper.make_node("Softmax", [last], ["chances"], axis=1))
        last = "chances"
    if corner:
        tensors["corner"] = np.array(corner, np.int64)
        nodes.append(helper.make_node("Reshape", [last, "corner"], ["corners"]))
        last, shape = "corners", [batch, 5, 1, 1]
    if dtype == TensorProto.FLOAT16:
        nodes.append(helper.make_node("Cast", [last], ["half"], to=TensorProto.FLOAT16))
        last = "half"
    return nodes, last, shape


KERAS = ["--layout", "NHWC", "--color", "BGR", "--scale", "1/127.5", "--mean", "1", "--output", "probabilities"]
TORCH = ["--layout", "NCHW", "--color", "RGB", "--scale", "1/255", "--mean", "0.485,0.456,0.406"]
TORCH += ["--std", "0.229,0.224,0.225", "--output", "logits"]
CAFFE = ["--layout", "NCHW", "--color", "BGR", "--mean", "103.939,116.779,123.68", "--output", "probabilities"]


def keras_reference(image):
    """As Keras code does it: resize to the input, BGR, scaled to -1..1, softmax inside."""
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32)[..., ::-1]
    return softmax(network((pixels / 127.5 - 1).transpose(2, 0, 1)[None]))[0]


def torch_reference(image):
    """As torchvision's transforms do it: shorter side to 73, centre crop 64, ToTensor, Normalize; logits."""
    width, height = image.size
    size = (73, int(73 * height / width)) if width <= height else (int(73 * width / height), 73)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 64, top + 64)), np.float32) / 255
    pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return softmax(network(pixels.transpose(2, 0, 1)[None]))[0]


def caffe_reference(image):
    """As Caffe's classifier does it: stretch to 73x73, centre crop, BGR, mean subtraction, scores [n, 5, 1, 1]."""
    stretched = np.asarray(image.resize((73, 73), Image.Resampling.BILINEAR), np.float32)
    first = round((73 - 64) / 2)
    pixels = stretched[first : first + 64, first : first + 64, ::-1] - np.float32([103.939, 116.779, 123.68])
    return softmax(network(pixels.transpose(2, 0, 1)[None]))[0]


STYLES = {
    "keras": ({"layout": "NHWC", "softmax_inside": True}, [*KERAS, "--resize", "stretch:64"], keras_reference),
    "torch": ({"opset": 17}, [*TORCH, "--resize", "shorter:73", "--crop", "64"], torch_reference),
    "caffe": (
        {"softmax_inside": True, "four_dimensional": True, "opset": 7, "weights_as_inputs": True, "batch": 10},
        [*CAFFE, "--resize", "stretch:73", "--crop", "64"],
        caffe_reference,
    ),
}

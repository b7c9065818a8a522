"""What a graph's bytes may not do: read other files or bring code. Judged from the bytes, without the onnx library.

ONNX lets a tensor say "my data lies in that file"; onnxruntime follows such paths relative to where it stands. The walk
below reads protobuf with the field numbers of onnx.proto and looks at tensors, nodes and what can contain them;
everything else is stepped over by its length.
"""

from __future__ import annotations

from collections.abc import Iterator

from bundle.errors import BundleError
from bundle.store import Bundle
from bundle.wire import fields

_DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft", b"pkg.onnxscript.torch_lib")
_MAX_DEPTH = 64
# Message -> field number -> the message found there (onnx.proto).
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_NODE_OP_TYPE, _NODE_DOMAIN = 4, 7


def read_graph(bundle: Bundle, file: str) -> bytes:
    """Return a listed graph's bytes after checking size, SHA-256 and that it stands alone. Raises `BundleError`."""
    raw = bundle.read(file)
    check_standalone(raw, file)
    return raw


def check_standalone(raw: bytes, file: str) -> None:
    """Raise `BundleError` when an ONNX file refers to other files, to foreign operators, or ends too soon."""
    try:
        found = sum(1 for _ in _walk(memoryview(raw), "model", file, 0))
    except (IndexError, ValueError):
        raise BundleError(f"{file} is not a whole ONNX file: its protobuf data is cut off or damaged") from None
    if not found:
        raise BundleError(f"{file} is not an ONNX file: it holds no graph")


def _walk(data: memoryview, kind: str, file: str, depth: int) -> Iterator[str]:
    """Yield the kind of every message inside, after checking it."""
    if depth > _MAX_DEPTH:
        raise BundleError(f"{file} nests graphs deeper than {_MAX_DEPTH} messages")
    children = _CHILDREN[kind]
    name = b"?"
    for number, value in fields(data):
        if isinstance(value, memoryview) and number in children:
            yield children[number]
            yield from _walk(value, children[number], file, depth + 1)
        elif kind == "tensor" and isinstance(value, memoryview) and number == _TENSOR_NAME:
            name = bytes(value[:100])
        elif kind == "tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value)):
            shown = name.decode(errors="replace")
            raise BundleError(f"{file} keeps tensor {shown!r} in another file; a bundle's graph must stand alone")
        elif kind == "node" and isinstance(value, memoryview):
            _check_node(number, bytes(value[:200]), file)


def _check_node(number: int, value: bytes, file: str) -> None:
    if number == _NODE_DOMAIN and value not in _DOMAINS:
        raise BundleError(f"{file} uses operators of domain {value.decode(errors='replace')!r}, which are not served")
    if number == _NODE_OP_TYPE and value == b"EPContext":
        raise BundleError(f"{file} holds an EPContext node, which loads compiled code from elsewhere")

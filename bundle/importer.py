"""Turn an ONNX classifier that someone else made into an ordinary bundle.

What cannot be read from the file (layout, colour order, normalisation, what the output is) must be said; what is said
is checked against the file, and the result proves itself like any other bundle.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data
from PIL import Image

from bundle import session
from bundle.draft import Draft, SealedVariant
from bundle.dynamic_batch import free_batch
from bundle.errors import BundleError
from bundle.explain import cam_core, linear_head
from bundle.front import Description, Front
from bundle.graph import MIN_OPSET, check, dims_of, drop_weight_inputs, opset_of, parameters_of, seal
from bundle.manifest import MAX_FILE_BYTES, Graph, Lineage, Preprocessing
from bundle.preprocess import preprocess
from bundle.stamp import Stamp

CONVERTED_OPSET = 13
SUM_TOLERANCE = 1e-2
_DTYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)


def import_model(path: Path, description: Description, golden: dict[str, bytes]) -> Draft:
    """Read, seal and prove a file. `golden` maps file names to encoded images; without any, two are drawn.

    Raises `BundleError` saying what does not fit and what would.
    """
    core = load(path)
    size = _made_size(description.preprocessing)
    stamp = Stamp(description.labels)
    _check_front(core, description.front)
    roles = _roles(core, description)
    core, bound = free_batch(core, description.front, roles, stamp, size=size)
    sealed = seal(core, description.front, roles, stamp, size=size)
    check(sealed)
    raw = bytes(sealed.SerializeToString())
    golden = golden or _drawn(sealed)
    _check_output(raw, golden, description)
    cam = cam_core(core, roles["logits"]) if "logits" in roles and description.front.layout == "NCHW" else None
    explain = seal(cam, description.front, {"cam": "cam"}, stamp, size=size).SerializeToString() if cam else None
    return Draft(
        name=description.name,
        labels=description.labels,
        preprocessing=description.preprocessing,
        graph=Graph(
            opset=opset_of(core),
            parameters=parameters_of(core),
            architecture=core.graph.name or "imported",
            producer=f"{core.producer_name or 'unknown'} {core.producer_version}".strip(),
        ),
        variants={"fp32": SealedVariant(raw)},
        golden=golden,
        lineage=_lineage(path, description, bound),
        explain=bytes(explain) if explain is not None else None,
    )


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with the weights that lie beside it, at an operator set that can be sealed."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BundleError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    except Exception:  # protobuf raises its own kinds for bytes that are no message
        raise BundleError(f"{path.name} is not an ONNX file") from None
    if not model.graph.node:
        raise BundleError(f"{path.name} is not an ONNX file: it holds no graph")
    _gather_weights(model, path)
    drop_weight_inputs(model)
    if opset_of(model) < MIN_OPSET:
        model = _converted(model)
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        raise BundleError(f"{path.name}: shapes cannot be inferred: {str(error).splitlines()[0]}") from None


def _gather_weights(model: onnx.ModelProto, path: Path) -> None:
    """Load tensors kept in other files, which must be plain files beside the graph."""
    outside = [t for t in model.graph.initializer if uses_external_data(t)]
    for tensor in outside:
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        beside = path.parent / place
        if Path(place).name != place or beside.is_symlink() or not beside.is_file():
            raise BundleError(f"{path.name} keeps {tensor.name} in {place!r}, which is not a plain file beside it")
    if outside:
        load_external_data_for_model(model, str(path.parent))


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, CONVERTED_OPSET)
    except Exception as error:
        raise BundleError(
            f"operator set {opset_of(model)} is older than {MIN_OPSET} and cannot be converted:"
            f" {str(error).splitlines()[0]}"
        ) from None


def _check_front(core: onnx.ModelProto, front: Front) -> None:
    inputs = core.graph.input
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise BundleError(f"a classifier takes one input, the image; this graph takes {len(inputs)}: {listed}")
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in _DTYPES:
        raise BundleError(f"input {inputs[0].name} is {TensorProto.DataType.Name(kind)}; float32, float16, uint8 serve")
    plain = front.divisor == 1 and not any(front.mean) and all(s == 1 for s in front.std)
    if kind == TensorProto.UINT8 and not plain:
        raise BundleError("the graph takes uint8 pixels as they are: leave out the scale, the mean and the deviation")


def _roles(core: onnx.ModelProto, description: Description) -> dict[str, str]:
    """Find the class vector among the outputs and, behind it, logits and embedding where they lie on the path."""
    output = _class_output(core, description)
    roles: dict[str, str] = {description.output: output}
    makers = {name: node for node in core.graph.node for name in node.output}
    if description.output == "probabilities":
        node = makers.get(output)
        if node is None or node.op_type != "Softmax" or len(_dims(core, output)) != 2:
            return roles
        roles["logits"] = node.input[0]
    head = linear_head(makers, {t.name: t for t in core.graph.initializer}, roles["logits"])
    if head is not None and head[0] in makers and len(_dims(core, head[0])) == 2:
        roles["embedding"] = head[0]
    return roles


def _class_output(core: onnx.ModelProto, description: Description) -> str:
    names = [str(value.name) for value in core.graph.output]
    if description.output_name is not None:
        if description.output_name not in names:
            raise BundleError(f"there is no output {description.output_name}; outputs are {', '.join(names)}")
        names = [description.output_name]
    classes = len(description.labels)
    sizes = {name: int(np.prod([d for d in _dims(core, name)[1:] if isinstance(d, int)])) for name in names}
    fitting = [name for name in names if sizes[name] == classes]
    if len(fitting) > 1:
        raise BundleError(f"several outputs hold {classes} numbers: {', '.join(fitting)}; name one")
    if not fitting:
        listed = ", ".join(f"{name} with {size}" for name, size in sizes.items())
        raise BundleError(f"there are {classes} labels but no output with {classes} classes; outputs: {listed}")
    return fitting[0]


def _dims(core: onnx.ModelProto, name: str) -> list[int | str | None]:
    values = [*core.graph.output, *core.graph.value_info]
    return next((dims_of(value) for value in values if value.name == name), [])


def _made_size(recipe: Preprocessing) -> tuple[int, int] | None:
    return recipe.crop_size or (recipe.resize_size if recipe.resize == "stretch" else None)


def _drawn(sealed: onnx.ModelProto) -> dict[str, bytes]:
    """Draw two images of the graph's size from fixed noise, for want of real ones."""
    _, height, width, channels = dims_of(sealed.graph.input[0])
    found = {}
    for seed in range(2):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((int(width or 1), int(height or 1)), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        (image if channels == 3 else image.convert("L")).save(stream, "PNG")
        found[f"drawn{seed}.png"] = stream.getvalue()
    return found


def _check_output(raw: bytes, golden: dict[str, bytes], description: Description) -> None:
    """See whether the output is what it was said to be: probabilities add up to one, logits hardly ever do."""
    rows = np.stack([preprocess(image, description.preprocessing).pixels for image in golden.values()])
    outputs = session.run(session.open_session(raw), rows)
    values = outputs[description.output]
    if not np.isfinite(values).all():
        raise BundleError("the graph gives values that are not finite; are scale, mean and deviation right?")
    adds_up = bool((np.abs(values.sum(axis=1) - 1) < SUM_TOLERANCE).all() and (values >= -SUM_TOLERANCE).all())
    if description.output == "probabilities" and not adds_up:
        raise BundleError(f"the output adds up to {values[0].sum():.4g}, not 1: it is logits, not probabilities")
    if description.output == "logits" and adds_up:
        raise BundleError("the output adds up to 1 for every image: it is probabilities, not logits")


def _lineage(path: Path, description: Description, bound: int | None) -> Lineage:
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    facts = {"file": path.name, "sha256": digest, "output": description.output, "fixed_batch": bound}
    return Lineage(
        kind="imported",
        recipe=facts | {"front": asdict(description.front)},
        seed=None,
        code=None,
        data_fingerprint=None,
        libraries={"onnx": onnx.__version__, "onnxruntime": session.RUNTIME},
        parent=None,
    )

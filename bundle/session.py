"""Run a sealed graph with onnxruntime on the CPU: what verification, import and export measure with.

The service has sessions of its own; this one is small and deterministic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bundle.errors import BundleError
from bundle.manifest import TensorSpec

RUNTIME: str = ort.__version__
Session: TypeAlias = ort.InferenceSession
Outputs = dict[str, npt.NDArray[np.float32]]
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def open_session(raw: bytes, file: str = "the graph", *, threads: int = 0) -> Session:
    """Open a session on the CPU provider. `threads` 0 leaves the number to onnxruntime. Raises `BundleError`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen classes of its own, all of them about the graph
        raise BundleError(f"onnxruntime refuses {file}: {_first_line(error)}") from None


def run(session: Session, rows: npt.NDArray[np.uint8], *, batch_size: int | None = None) -> Outputs:
    """Run uint8 rows [n, h, w, c] in batches (all at once without `batch_size`); returns float32 arrays by name.

    A graph with a fixed batch is fed that many rows at a time, the last ones repeated to fill up.
    """
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else batch_size or len(rows)
    names = [output.name for output in session.get_outputs()]
    parts: list[list[Any]] = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        short = size - len(batch) if isinstance(fixed, int) else 0
        fed = np.concatenate([batch, batch[-1:].repeat(short, axis=0)]) if short else batch
        try:
            results = session.run(names, {"image": np.ascontiguousarray(fed)})
        except Exception as error:
            raise BundleError(f"onnxruntime cannot run a batch of {len(fed)}: {_first_line(error)}") from None
        parts.append([result[: len(batch)] for result in results])
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}


def input_spec(session: Session) -> TensorSpec:
    """Describe the graph's image input. Raises `BundleError` where it has another number of inputs."""
    if len(session.get_inputs()) != 1:
        raise BundleError(f"the graph has {len(session.get_inputs())} inputs; a sealed graph has one")
    return _spec(session.get_inputs()[0])


def output_specs(session: Session) -> tuple[TensorSpec, ...]:
    """Describe the graph's outputs in their order."""
    return tuple(_spec(output) for output in session.get_outputs())


def stamps(session: Session) -> dict[str, str]:
    """Return what the file says about itself (see `bundle.stamp.Stamp`)."""
    return dict(session.get_modelmeta().custom_metadata_map)


def _spec(argument: Any) -> TensorSpec:
    if argument.type not in _DTYPES:
        raise BundleError(f"{argument.name} has type {argument.type}; a sealed graph holds uint8 and float32")
    shape: Sequence[int | str | None] = argument.shape
    dims = tuple(d if d is not None else f"axis_{i}" for i, d in enumerate(shape))
    return TensorSpec.model_validate(
        {"name": argument.name, "dtype": _DTYPES[argument.type], "shape": dims},
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__

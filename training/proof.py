"""What an export must show before it may be published: parity with PyTorch, batch invariance, node placement."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from bundle import session
from bundle.manifest import Parity, Provider
from torch import nn

from training.data.augment import Normalise
from training.errors import ExportMismatch

BATCH_SIZES = (1, 2, 7, 32)
LOGIT_TOLERANCE = 1e-3
PROBABILITY_TOLERANCE = 1e-4
INVARIANCE_TOLERANCE = 1e-5
PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def prove_parity(
    model: nn.Module, normalise: Normalise, sealed: bytes, rows: npt.NDArray[np.uint8], temperature: float
) -> Parity:
    """Compare a sealed graph with the network it came from, on real images at several batch sizes.

    `rows` is uint8 [n, height, width, channels]; 32 of them are used, repeated where there are fewer. Raises
    `ExportMismatch` naming the batch size and the difference, also where a probability depends on its neighbours.
    """
    rows = np.resize(rows, (max(BATCH_SIZES), *rows.shape[1:]))
    with torch.inference_mode():
        logits = model.eval()(normalise(torch.from_numpy(rows))).float()
    probabilities = (logits / temperature).softmax(dim=1).numpy()
    opened = session.open_session(sealed)
    if isinstance(bound := session.input_spec(opened).shape[0], int):
        raise ExportMismatch(f"the exporter bound the graph to batches of {bound}; it must take any")
    by_size = {size: session.run(opened, rows, batch_size=size) for size in BATCH_SIZES}
    logit_difference = max(
        _largest(f"batch {size}: a logit", out["logits"], logits.numpy(), LOGIT_TOLERANCE)
        for size, out in by_size.items()
    )
    difference = max(
        _largest(f"batch {size}: a probability", out["probabilities"], probabilities, PROBABILITY_TOLERANCE)
        for size, out in by_size.items()
    )
    alone = by_size[1]["probabilities"]
    invariance = max(
        _largest(f"batch {size} against 1: a probability", out["probabilities"], alone, INVARIANCE_TOLERANCE)
        for size, out in by_size.items()
    )
    return Parity(
        batch_sizes=BATCH_SIZES,
        max_logit_difference=logit_difference,
        tolerance=LOGIT_TOLERANCE,
        max_probability_difference=difference,
        probability_tolerance=PROBABILITY_TOLERANCE,
        batch_invariance=invariance,
        batch_invariance_tolerance=INVARIANCE_TOLERANCE,
        nodes_by_provider={name: placement(sealed, name, rows[:1]) for name in providers_here()},
    )


def prove_cam(
    sealed: bytes, rows: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32], bias: torch.Tensor | None
) -> None:
    """Check that the mean of every class activation map is that class's logit less the head's bias."""
    maps = session.run(session.open_session(sealed), rows)["cam"]
    offset = bias.detach().numpy() if bias is not None else np.zeros(logits.shape[1], np.float32)
    _largest("the mean of a class activation map", maps.mean(axis=(2, 3)) + offset, logits, LOGIT_TOLERANCE)


@cache
def providers_here() -> tuple[Provider, ...]:
    """List the providers that truly run here: onnxruntime lists CUDA whenever its build knows it."""
    return ("cpu", "cuda") if Path("/dev/nvidiactl").exists() else ("cpu",)


def placement(sealed: bytes, provider: Provider, rows: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Count the nodes that ran on each provider, from onnxruntime's own profile of one batch."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        chosen = [PROVIDERS[provider]] if provider == "cpu" else [PROVIDERS[provider], PROVIDERS["cpu"]]
        opened = ort.InferenceSession(sealed, options, providers=chosen)
        session.run(opened, rows)
        events = json.loads(Path(opened.end_profiling()).read_text())
    ran = {(e["name"], e["args"]["provider"]) for e in events if e.get("args", {}).get("provider")}
    return dict(sorted(Counter(where for _, where in ran).items()))


def _largest(what: str, got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], tolerance: float) -> float:
    difference = float(np.abs(got - wanted).max()) if got.shape == wanted.shape else float("inf")
    if not difference <= tolerance:
        raise ExportMismatch(f"{what} differs by {difference:.3g}; the tolerance is {tolerance:g}")
    return difference

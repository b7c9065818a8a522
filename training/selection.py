"""Which variants are worth keeping: made, measured on held-out images, and dropped outside the recipe's budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt
import onnx
from bundle import session
from bundle.draft import SealedVariant
from bundle.front import Front
from bundle.manifest import Accuracy, Dropped, VariantName
from bundle.stamp import Stamp

from training.latency import machine, measure_latency
from training.paired import compare
from training.recipe import Export
from training.variants import by_sensitivity, head_nodes, make_fp16, make_int8

BATCH = 128
FLOAT_STEPS = (1, 2, 4, 8)
"""How many of the most sensitive layers stay float, tried in turn until int8 is within its budget."""

Rows = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Material:
    """What variants are made from and judged on. Rows are uint8 [n, height, width, channels]."""

    core: onnx.ModelProto
    front: Front
    roles: dict[str, str]
    stamp: Stamp
    fp32: bytes
    calibration: Rows
    validation: Rows
    validation_targets: Targets
    test: Rows
    test_targets: Targets


@dataclass(slots=True)
class Chosen:
    """The variants that stay, and the reason for each that does not."""

    variants: dict[VariantName, SealedVariant]
    dropped: dict[VariantName, Dropped] = field(default_factory=dict)
    answers: dict[VariantName, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Probabilities [n, classes] of each kept variant for the test split."""


def choose_variants(material: Material, settings: Export) -> Chosen:
    """Make the recipe's variants and keep those whose top-1 is at most `max_top1_drop` below that of fp32."""
    graphs: dict[VariantName, bytes] = {"fp32": material.fp32}
    float_nodes: dict[VariantName, tuple[str, ...]] = {}
    if "int8" in settings.variants:
        graphs["int8"], float_nodes["int8"] = _search_int8(material, settings)
    if "fp16" in settings.variants:
        graphs["fp16"] = make_fp16(material.core, material.front, material.roles, material.stamp)
    answers = {name: predict(raw, material.test) for name, raw in graphs.items()}
    accuracies = {name: _accuracy(answers["fp32"], got, material.test_targets) for name, got in answers.items()}
    dropped = {
        name: Dropped(reason=_too_low(accuracy, settings.max_top1_drop), accuracy=accuracy)
        for name, accuracy in accuracies.items()
        if accuracy.difference < -settings.max_top1_drop
    }
    kept = {name: raw for name, raw in graphs.items() if name not in dropped}
    latency = measure_latency(
        {name: (raw, material.test[0]) for name, raw in kept.items()}, settings.latency_batch_sizes
    )
    variants = {
        name: SealedVariant(
            raw, accuracies[name], {"cpu": _milliseconds(latency[name])}, machine(), float_nodes.get(name, ())
        )
        for name, raw in kept.items()
    }
    return Chosen(variants, dropped, {name: answers[name] for name in kept})


def predict(raw: bytes, rows: Rows) -> npt.NDArray[np.float32]:
    """Return probabilities [n, classes] of a sealed graph."""
    return session.run(session.open_session(raw), rows, batch_size=BATCH)["probabilities"]


def _search_int8(material: Material, settings: Export) -> tuple[bytes, tuple[str, ...]]:
    """Quantise, then give the most sensitive layers back to float until the validation images show little harm."""
    head, targets = head_nodes(material.fp32), material.validation_targets
    reference = predict(material.fp32, material.validation).argmax(axis=1)
    float_nodes, raw = head, make_int8(material.fp32, material.calibration, head)
    ranking: list[str] = []
    for step in FLOAT_STEPS:
        answers = predict(raw, material.validation).argmax(axis=1)
        if compare(reference, answers, targets).difference >= -settings.max_top1_drop:
            break
        ranking = ranking or by_sensitivity(material.fp32, raw, material.calibration)
        float_nodes = (*head, *[name for name in ranking if name not in head][:step])
        raw = make_int8(material.fp32, material.calibration, float_nodes)
    return raw, float_nodes


def _accuracy(reference: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], targets: Targets) -> Accuracy:
    same = probabilities is reference
    paired = compare(reference.argmax(axis=1), probabilities.argmax(axis=1), targets)
    return Accuracy(
        n=paired.n,
        top1=float((probabilities.argmax(axis=1) == targets).mean()),
        difference=paired.difference,
        difference_interval=None if same else paired.interval,
        agreement=paired.agreement,
    )


def _too_low(accuracy: Accuracy, budget: float) -> str:
    return f"top-1 {accuracy.top1:.4f} is {-accuracy.difference:.4f} below fp32; the budget is {budget:g}"


def _milliseconds(seconds: dict[int, list[float]]) -> dict[str, float]:
    return {str(size): round(median(rounds) * 1e3, 4) for size, rounds in seconds.items()}

"""What a model is worth on images it has not seen: the figures made of its probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, roc_auc_score
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import multiclass_calibration_error

from training.errors import TrainingError

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]
ECE_BINS = 15
MISLEADING_SHARE = 0.8
"""A class with a larger share of the images makes plain accuracy say little."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: how many images it has, and precision, recall and F1 of answering it (0 where undefined)."""

    support: int
    precision: float
    recall: float
    f1: float

    @property
    def recall_interval(self) -> tuple[float, float]:
        """The recall's 95 % Wilson interval; all of 0..1 for a class without images."""
        return wilson(round(self.recall * self.support), self.support) if self.support else (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one model on one split; every accuracy with its 95 % Wilson interval."""

    n: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    loss: float
    ece: float
    """Expected calibration error over 15 equal-width bins of confidence."""
    balanced_accuracy: float
    """Mean recall of the classes that occur."""
    roc_auc: float | None
    """Area under the ROC curve, one class against the rest, averaged over classes; null where a class never occurs."""
    confusion: tuple[tuple[int, ...], ...]
    """`confusion[true][answered]` counts images."""
    per_class: dict[str, ClassScore]
    warnings: tuple[str, ...]
    """Where the accuracy misleads, in words."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of `correct` out of `n`."""
    low, high = proportion_confint(correct, n, alpha=0.05, method="wilson")
    return float(low), float(high)


def score(probabilities: Floats, targets: Integers, labels: Sequence[str]) -> Evaluation:
    """Judge probabilities [n, classes] against class indices [n]. Raises `TrainingError` when the shapes disagree."""
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets, np.int64)
    if probabilities.ndim != 2 or probabilities.shape != (len(targets), len(labels)) or not len(targets):
        raise TrainingError(
            f"probabilities of shape {probabilities.shape} do not fit {len(targets)} targets and {len(labels)} labels"
        )
    order = np.argsort(-probabilities, axis=1, kind="stable")
    correct = int((order[:, 0] == targets).sum())
    among_five = int((order[:, :5] == targets[:, None]).any(axis=1).sum())
    n, indices = len(targets), np.arange(len(labels))
    clipped = np.clip(probabilities, 1e-12, 1.0)
    per_class = _per_class(order[:, 0], targets, labels)
    return Evaluation(
        n=n,
        top1=correct / n,
        top1_interval=wilson(correct, n),
        top5=among_five / n,
        top5_interval=wilson(among_five, n),
        loss=float(log_loss(targets, clipped / clipped.sum(axis=1, keepdims=True), labels=indices)),
        ece=_calibration_error(probabilities, targets),
        balanced_accuracy=float(np.mean([c.recall for c in per_class.values() if c.support])),
        roc_auc=_roc_auc(probabilities, targets),
        confusion=tuple(map(tuple, confusion_matrix(targets, order[:, 0], labels=indices).tolist())),
        per_class=per_class,
        warnings=tuple(_warnings(correct / n, per_class)),
    )


def _calibration_error(probabilities: Floats, targets: Integers) -> float:
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(targets),
        num_classes=probabilities.shape[1],
        n_bins=ECE_BINS,
        norm="l1",
    )
    return float(error)


def _roc_auc(probabilities: Floats, targets: Integers) -> float | None:
    classes = probabilities.shape[1]
    if len(np.unique(targets)) != classes:
        return None
    each = [roc_auc_score(targets == index, probabilities[:, index]) for index in range(classes)]
    return float(np.mean(each))


def _warnings(top1: float, per_class: dict[str, ClassScore]) -> list[str]:
    """Say where one class is so common that the accuracy tells little, and which classes are never found."""
    present = {label: c for label, c in per_class.items() if c.support}
    n = sum(c.support for c in present.values())
    label, most = max(present.items(), key=lambda pair: pair[1].support)
    share, found = most.support / n, []
    if len(present) > 1 and share > MISLEADING_SHARE:
        balanced = np.mean([c.recall for c in present.values()])
        found.append(
            f"accuracy misleads: {share:.1%} of the images are {label}, so always answering {label} scores {share:.1%};"
            f" this model scores {top1:.1%}, its mean recall over the classes is {balanced:.1%}"
        )
    found += [f"{name} is never recognised: recall 0 of {c.support}" for name, c in present.items() if not c.recall]
    return found


def _per_class(predicted: Integers, targets: Integers, labels: Sequence[str]) -> dict[str, ClassScore]:
    columns = precision_recall_fscore_support(targets, predicted, labels=np.arange(len(labels)), zero_division=0.0)
    rows = zip(labels, *columns, strict=True)
    return {label: ClassScore(int(support), float(p), float(r), float(f)) for label, p, r, f, support in rows}

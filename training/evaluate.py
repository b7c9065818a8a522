"""What a model is worth on images it has not seen: probabilities, and the figures made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import log_loss, precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from training.data.augment import Normalise
from training.data.tensors import Images
from training.errors import TrainingError

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: how many images it has, and precision, recall and F1 of answering it (0 where undefined)."""

    support: int
    precision: float
    recall: float
    f1: float


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
    per_class: dict[str, ClassScore]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of `correct` out of `n`."""
    low, high = proportion_confint(correct, n, alpha=0.05, method="wilson")
    return float(low), float(high)


def score(
    probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], labels: Sequence[str]
) -> Evaluation:
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
    ece = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), num_classes=len(labels), n_bins=ECE_BINS, norm="l1"
    )
    return Evaluation(
        n=n,
        top1=correct / n,
        top1_interval=wilson(correct, n),
        top5=among_five / n,
        top5_interval=wilson(among_five, n),
        loss=float(log_loss(targets, clipped / clipped.sum(axis=1, keepdims=True), labels=indices)),
        ece=float(ece),
        per_class=_per_class(order[:, 0], targets, labels),
    )


def _per_class(
    predicted: npt.NDArray[np.integer], targets: npt.NDArray[np.integer], labels: Sequence[str]
) -> dict[str, ClassScore]:
    columns = precision_recall_fscore_support(targets, predicted, labels=np.arange(len(labels)), zero_division=0.0)
    rows = zip(labels, *columns, strict=True)
    return {label: ClassScore(int(support), float(p), float(r), float(f)) for label, p, r, f, support in rows}


@torch.inference_mode()
def logits_of(model: nn.Module, images: Images, normalise: Normalise, batch_size: int = 500) -> torch.Tensor:
    """Return float32 logits [n, classes] of an evaluated model, on the images exactly as they are."""
    model.eval()
    return torch.cat([model(normalise(chunk)).float() for chunk in torch.split(images.pixels, batch_size)])

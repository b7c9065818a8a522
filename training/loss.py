"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.recipe import Train

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [n, classes] and classes [n], or shares of classes [n, classes], to a loss for each image [n]."""


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Return float32 [classes] in inverse proportion to how often each occurs, 1 on average over the images."""
    counts = torch.bincount(targets, minlength=classes).clamp(min=1)
    return len(targets) / (classes * counts.float())


def make_loss(train: Train, targets: Tensor, classes: int) -> Loss:
    """Build the recipe's loss for training images with these classes."""
    weight = class_weights(targets, classes) if train.balance == "loss" else None

    def hinge(logits: Tensor, wanted: Tensor) -> Tensor:
        """Sum over the other classes of max(0, 1 + their score - the right one's); torch divides by the classes."""
        return classes * F.multi_margin_loss(logits, wanted, weight=_to(weight, logits), reduction="none")

    def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
        weights = _to(weight, logits)
        return F.cross_entropy(logits, wanted, weights, reduction="none", label_smoothing=train.label_smoothing)

    return hinge if train.loss == "hinge" else cross_entropy


def _to(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    return weight.to(logits.device) if weight is not None else None

"""The optimiser of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.recipe import Train


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters: matrices and filters decay; biases and normalisation weights do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over the parameters that train."""
    groups = parameter_groups(model, train.weight_decay)
    return torch.optim.SGD(groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.momentum > 0)

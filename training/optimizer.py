"""Which weights train, how fast, and with which optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.errors import RecipeError
from training.recipe import Train


def parameter_groups(model: nn.Module, train: Train) -> list[dict[str, Any]]:
    """Group the trainable parameters by decay and by the share of the learning rate that their part of the network has.

    Matrices and filters decay; biases and normalisation weights do not. Every group carries its `share`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = train.rates.get(name.split(".")[0], 1.0)
            decay = train.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [{"params": ps, "weight_decay": decay, "share": share} for (share, decay), ps in groups.items()]


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Build the recipe's optimiser. Raises `RecipeError` where nothing is left to train."""
    check_parts(model, [*train.freeze, *train.rates])
    groups = parameter_groups(model, train)
    if not groups:
        raise RecipeError("train.freeze leaves nothing to train")
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.learning_rate)
    return torch.optim.SGD(groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.momentum > 0)


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Stop parts of the network from training. Raises `RecipeError` for a part that it has not."""
    check_parts(model, parts)
    for part in parts:
        for parameter in getattr(model, part).parameters():
            parameter.requires_grad = False


def train_mode(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Switch to training, but keep the running statistics of frozen parts as they are."""
    model.train()
    for part in frozen:
        getattr(model, part).eval()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def check_parts(model: nn.Module, parts: tuple[str, ...] | list[str]) -> None:
    """Raise `RecipeError` for a part that the network has not, naming those it has."""
    known = [name for name, _ in model.named_children()]
    for part in parts:
        if part not in known:
            raise RecipeError(f"the network has no part {part}; it has {', '.join(known)}")

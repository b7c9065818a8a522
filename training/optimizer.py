"""Which weights train, how fast, and with which optimiser."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from training.errors import RecipeError
from training.recipe import Train


def parameter_groups(model: nn.Module, train: Train) -> list[dict[str, Any]]:
    """Group the trainable parameters by decay and by the share of the learning rate that their part of the network has.

    Matrices and filters decay; biases and normalisation weights do not. Every group carries its `share`; of two parts
    that both hold a weight, the smaller one decides. Raises `RecipeError` for a part that the network has not.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    shares = {member: rate for part, rate in train.rates.items() for member in members(model, part)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = shares.get(max((part for part in shares if within(name, part)), key=len, default=""), 1.0)
            decay = train.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [{"params": ps, "weight_decay": decay, "share": share} for (share, decay), ps in groups.items()]


def make_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Build the recipe's optimiser. Raises `RecipeError` where nothing is left to train."""
    groups = parameter_groups(model, train)
    if not groups:
        raise RecipeError("train.freeze leaves nothing to train")
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.learning_rate)
    return torch.optim.SGD(groups, lr=train.learning_rate, momentum=train.momentum, nesterov=train.momentum > 0)


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Stop parts of the network from training. Raises `RecipeError` for a part that it has not."""
    for module in _modules(model, parts):
        module.requires_grad_(False)


def train_mode(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Switch to training, but keep the running statistics of frozen parts as they are."""
    model.train()
    for module in _modules(model, frozen):
        module.eval()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def members(model: nn.Module, part: str) -> list[str]:
    """Return the modules that a part of the network means.

    A part is a module by its name, such as `layer1`, `layer4.1` or `features.24`, or a range of numbered ones, such as
    `features.0-23`. Raises `RecipeError` for one that the network has not, naming those it has.
    """
    parent, _, last = part.rpartition(".")
    span = re.fullmatch(r"(\d+)-(\d+)", last)
    names = [str(n) for n in range(int(span[1]), int(span[2]) + 1)] if span else [last]
    found = [f"{parent}.{name}" if parent else name for name in names]
    known = {name for name, _ in model.named_modules() if name}
    if not found or not known.issuperset(found):
        raise RecipeError(f"the network has no part {part}; {_known(model, part)}")
    return found


def within(name: str, part: str) -> bool:
    """Whether a weight lies in a part."""
    return name.startswith(f"{part}.")


def _modules(model: nn.Module, parts: tuple[str, ...]) -> list[nn.Module]:
    return [model.get_submodule(member) for part in parts for member in members(model, part)]


def _known(model: nn.Module, part: str) -> str:
    """Name the parts of the deepest module that the words before a wrong one lead to."""
    owner, words = model, part.split(".")[:-1]
    path: list[str] = []
    while words and words[0] in dict(owner.named_children()):
        path.append(words.pop(0))
        owner = owner.get_submodule(path[-1])
    names = [name for name, _ in owner.named_children()]
    return f"{'.'.join(path) or 'it'} has {', '.join(names) or 'no parts'}"

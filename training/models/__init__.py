"""The networks, one family a file, and the one function that builds any of them by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from training.errors import RecipeError
from training.models import torchvision_resnet, torchvision_vgg
from training.models.classic import build_lenet, build_perceptron
from training.models.classifier import Classifier
from training.models.small_resnet import DEPTHS, PLAIN_DEPTHS, SmallResNet
from training.models.small_vgg import STAGES, SmallVGG

__all__ = ["Classifier", "build", "names"]

Builder = Callable[..., Classifier]


def _small_resnet(
    depth: int, *, classes: int, channels: int, input_size: tuple[int, int], **options: Any
) -> Classifier:
    return SmallResNet(depth, classes, channels, **options)


def _small_vgg(name: str, *, classes: int, channels: int, input_size: tuple[int, int], **options: Any) -> Classifier:
    stages = options.pop("stages", STAGES[name])
    return SmallVGG(stages, classes, channels, min(input_size), **options)


BUILDERS: dict[str, Builder] = {
    **{name: partial(_small_resnet, depth) for name, depth in DEPTHS.items()},
    **{name: partial(_small_resnet, depth, shortcut="none") for name, depth in PLAIN_DEPTHS.items()},
    **{name: partial(_small_vgg, name) for name in STAGES},
    **{name: partial(torchvision_resnet.build_resnet, name) for name in torchvision_resnet.DEPTHS},
    **{name: partial(torchvision_vgg.build_vgg, name) for name in torchvision_vgg.NAMES},
    "alexnet": torchvision_vgg.build_alexnet,
    "lenet": build_lenet,
    "linear": partial(build_perceptron, ()),
    "perceptron": partial(build_perceptron, (64, 16)),
}


def names() -> list[str]:
    """List every model that `build` knows."""
    return sorted(BUILDERS)


def build(name: str, *, classes: int, channels: int, input_size: tuple[int, int], **options: Any) -> Classifier:
    """Build a network with fresh weights for images of `channels` x `input_size` (height, width).

    Raises `RecipeError` for an unknown name or an option that the family does not take.
    """
    if name not in BUILDERS:
        raise RecipeError(f"model.name: {name} is unknown; known: {', '.join(names())}")
    try:
        return BUILDERS[name](classes=classes, channels=channels, input_size=input_size, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model.options of {name}: {error}") from None

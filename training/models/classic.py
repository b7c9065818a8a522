"""The small networks that people learn and compare with: linear, multilayer perceptron, LeNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.models.classifier import Classifier

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class Perceptron(Classifier):
    """Fully connected layers over the flattened image; without hidden layers it is a linear classifier.

    Trained with `train.loss = "cross_entropy"` that is softmax regression, with `"hinge"` a linear support vector
    machine. 784-64-16-10 has 51,450 parameters.
    """

    def __init__(self, inputs: int, widths: Sequence[int], classes: int, activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, or the flattened image where there is none."""
        features: Tensor = self.body(torch.flatten(x, 1))
        return features


class LeNet(Classifier):
    """After LeCun et al. 1998: two 5x5 convolutions with max pooling, then 120, 84 and the classes; ReLU throughout."""

    def __init__(self, input_size: tuple[int, int], classes: int, channels: int) -> None:
        super().__init__()
        height, width = (((side // 2) - 4) // 2 for side in input_size)
        if height < 1 or width < 1:
            raise ValueError(f"input {input_size[0]}x{input_size[1]} is smaller than the 12x12 that LeNet needs")
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.body = nn.Sequential(nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
        self.head = nn.Linear(84, classes)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return [n, 16, (h / 2 - 4) / 2, (w / 2 - 4) / 2]."""
        features: Tensor = self.features(x)
        return features

    def embed(self, x: Tensor) -> Tensor:
        """Return [n, 84]."""
        features: Tensor = self.body(torch.flatten(self.feature_map(x), 1))
        return features


def build_perceptron(
    hidden: Sequence[int], *, classes: int, channels: int, input_size: tuple[int, int], **options: Any
) -> Classifier:
    """Build a perceptron with `hidden` units; the option `widths` gives others."""
    widths = options.pop("widths", hidden)
    return Perceptron(channels * input_size[0] * input_size[1], widths, classes, **options)


def build_lenet(*, classes: int, channels: int, input_size: tuple[int, int]) -> Classifier:
    """Build LeNet for images of at least 12x12."""
    return LeNet(input_size, classes, channels)

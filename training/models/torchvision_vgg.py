"""torchvision's VGGs and AlexNet, their state-dict names unchanged.

With the full stem they end in three fully connected layers over a fixed grid (7x7, AlexNet 6x6), as published; with
the small stem VGG ends in one linear layer over the average of its last features, so 32x32 images suit it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet as TorchvisionAlexNet
from torchvision.models import vgg

from training.models.classifier import Classifier

Stem = Literal["full", "small"]

DEPTHS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""The configurations of Simonyan and Zisserman 2014, table 1; `_bn` behind a name adds BatchNorm."""
NAMES = tuple(f"{name}{suffix}" for name in DEPTHS for suffix in ("", "_bn"))


class GridClassifier(Classifier):
    """What VGG and AlexNet share: `features`, pooled to a grid, and a `classifier` that ends in the head."""

    features: nn.Sequential
    avgpool: nn.Module
    classifier: nn.Sequential

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The last layer of torchvision's `classifier`."""
        return self.classifier[-1]

    def feature_map(self, x: Tensor) -> Tensor:
        """Return [n, 512, h / 32, w / 32] of VGG, [n, 256, 6, 6] of AlexNet and a 224x224 image."""
        features: Tensor = self.features(x)
        return features

    def embed(self, x: Tensor) -> Tensor:
        """Return [n, 4096], or [n, 512] with the small stem."""
        x = torch.flatten(self.avgpool(self.seen(x)), 1)
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x


class VGG(GridClassifier, vgg.VGG):
    """A torchvision VGG of any stem and channel count."""

    def __init__(self, name: str, classes: int, channels: int, stem: Stem = "full", dropout: float = 0.5) -> None:
        depth, _, norm = name.partition("_")
        features = vgg.make_layers(vgg.cfgs[DEPTHS[depth]], batch_norm=norm == "bn")
        if channels != 3:
            features[0] = nn.Conv2d(channels, 64, 3, padding=1)
        if stem == "small":
            nn.Module.__init__(self)  # not VGG's own: it would fill a hundred million weights to throw away
            self.features = features
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(nn.Linear(512, classes))
            self.cam = True
        else:
            vgg.VGG.__init__(self, features, num_classes=classes, init_weights=False, dropout=dropout)
        initialise(self)


class AlexNet(GridClassifier, TorchvisionAlexNet):
    """torchvision's AlexNet (Krizhevsky 2014, https://arxiv.org/abs/1404.5997) of any channel count."""

    def __init__(self, classes: int, channels: int, dropout: float = 0.5) -> None:
        TorchvisionAlexNet.__init__(self, num_classes=classes, dropout=dropout)
        if channels != 3:
            self.features[0] = nn.Conv2d(channels, 64, 11, stride=4, padding=2)


def initialise(model: nn.Module) -> None:
    """Start as torchvision starts a VGG: convolutions after He, linear layers at a deviation of 0.01."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def build_vgg(name: str, *, classes: int, channels: int, input_size: tuple[int, int], **options: Any) -> Classifier:
    """Build one by its torchvision name; `stem` is `full` (224x224) or `small` (32x32)."""
    stem = options.get("stem", "full")
    if stem not in ("full", "small"):
        raise ValueError(f"stem {stem!r} is neither 'full' nor 'small'")
    if min(input_size) < 32:
        raise ValueError(f"input {input_size[0]}x{input_size[1]} is smaller than 32x32: five poolings leave nothing")
    if stem == "full":
        _check_grid(name, input_size, [side // 32 for side in input_size], 7)
    return VGG(name, classes, channels, **options)


def build_alexnet(*, classes: int, channels: int, input_size: tuple[int, int], **options: Any) -> Classifier:
    """Build AlexNet; its input must reach the classifier as a multiple of 6x6, as 224x224 does."""
    if min(input_size) < 63:
        raise ValueError(f"input {input_size[0]}x{input_size[1]} is smaller than the 63x63 that AlexNet needs")
    _check_grid("alexnet", input_size, [_alexnet_side(side) for side in input_size], 6)
    return AlexNet(classes, channels, **options)


def _alexnet_side(side: int) -> int:
    side = (side + 4 - 11) // 4 + 1
    return (((side - 3) // 2 + 1 - 3) // 2 + 1 - 3) // 2 + 1


def _check_grid(name: str, input_size: tuple[int, int], grid: list[int], unit: int) -> None:
    if any(side % unit or not side for side in grid):
        raise ValueError(
            f"input {input_size[0]}x{input_size[1]} gives {name} a grid of {grid[0]}x{grid[1]}, which is no multiple of"
            f" {unit}x{unit}; use 224x224{', or stem small' if name != 'alexnet' else ''}"
        )

"""Residual and plain networks for small images: He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2.

A 3x3 convolution, three stages of n blocks of two 3x3 convolutions with 16, 32 and 64 filters, global average
pooling and a linear layer: 6n+2 layers with weights. Depth 20 with 10 classes has 269,722 parameters.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from training.models.classifier import Classifier

Shortcut = Literal["identity", "projection", "none"]

DEPTHS = {f"resnet{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}
PLAIN_DEPTHS = {f"plain{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions and what is added to their output.

    `identity` (option A of the paper) subsamples and pads new channels with zeros, so it has no parameters;
    `projection` (option B) is a 1x1 convolution where the shape changes; `none` makes the network plain.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = outputs - inputs
        self.shortcut = shortcut
        self.projection: nn.Module | None = None
        if shortcut == "projection" and (stride != 1 or inputs != outputs):
            self.projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def skip(self, x: Tensor) -> Tensor:
        """Return what the shortcut adds, in the shape of the block's output."""
        if self.projection is not None:
            projected: Tensor = self.projection(x)
            return projected
        if self.stride == 1 and not self.padding:
            return x
        before = self.padding // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padding - before))

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y if self.shortcut == "none" else y + self.skip(x))


class SmallResNet(Classifier):
    """The 6n+2 layer network; `shortcut="none"` makes it the plain network of the same depth."""

    cam = True

    def __init__(self, depth: int, classes: int, channels: int, shortcut: Shortcut = "identity") -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth {depth} is not 6n+2; use 8, 14, 20, 32, 44, 56 or 110")
        self.conv = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        blocks = (depth - 2) // 6
        self.stage1 = _stage(WIDTHS[0], WIDTHS[0], blocks, 1, shortcut)
        self.stage2 = _stage(WIDTHS[0], WIDTHS[1], blocks, 2, shortcut)
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2], blocks, 2, shortcut)
        self.head = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_map(self, x: Tensor) -> Tensor:
        """Return [n, 64, h / 4, w / 4]."""
        x = F.relu(self.bn(self.conv(x)))
        features: Tensor = self.stage3(self.stage2(self.stage1(x)))
        return features


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = Block(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))

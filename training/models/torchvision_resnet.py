"""torchvision's ResNets (He et al. 2015, sections 3 and 4.1), their state-dict names unchanged.

The small stem replaces the 7x7 convolution of stride 2 and the max pooling by one 3x3 convolution of stride 1, so that
a 32x32 image reaches the first stage at full size.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models import resnet

from training.models.classifier import Classifier

Stem = Literal["full", "small"]

DEPTHS: dict[str, tuple[type[nn.Module], list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
    "resnet152": (resnet.Bottleneck, [3, 8, 36, 3]),
}
"""Block and number of blocks in each of the four stages."""


class ResNet(Classifier, resnet.ResNet):
    """A torchvision ResNet of any stem and channel count."""

    cam = True
    bn1: nn.Module
    relu: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    fc: nn.Module

    def __init__(self, name: str, classes: int, channels: int, stem: Stem = "full") -> None:
        if stem not in ("full", "small"):
            raise ValueError(f"stem {stem!r} is neither 'full' nor 'small'")
        block, blocks = DEPTHS[name]
        resnet.ResNet.__init__(self, block, blocks, num_classes=classes)
        if stem == "small":
            self.conv1: nn.Conv2d = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """torchvision's `fc`."""
        return self.fc

    def feature_map(self, x: Tensor) -> Tensor:
        """Return [n, 512 or 2048, h / 32, w / 32]; with the small stem h / 8."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features


def build_resnet(name: str, *, classes: int, channels: int, input_size: tuple[int, int], **options: Any) -> Classifier:
    """Build one by its torchvision name; `stem` is `full` (224x224) or `small` (32x32)."""
    return ResNet(name, classes, channels, **options)

"""VGG for small images: 3x3 convolutions with BatchNorm, max pooling between stages, one linear layer on the average.

After Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556, without the three fully connected layers that
hold nine tenths of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from training.models.classifier import Classifier

STAGES: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg6_small": ((32, 32), (64, 64), (128,)),
    "vgg8_small": ((64,), (128, 128), (256, 256), (256, 256)),
    "vgg11_small": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16_small": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Filters of each convolution, stage by stage; `model.options.stages` gives others."""


class SmallVGG(Classifier):
    """Stages of convolutions with a 2x2 max pooling after every stage but the last, where a side is left to halve."""

    cam = True

    def __init__(self, stages: Sequence[Sequence[int]], classes: int, channels: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, widths in enumerate(stages):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if number + 1 < len(stages) and side > 1:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.dirac_(module.weight[: module.in_channels].data)  # begin by handing on what comes in

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last stage's features."""
        features: Tensor = self.features(x)
        return features

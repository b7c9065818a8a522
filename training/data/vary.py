"""Random changes made image by image, or between the images of a batch, by torchvision's transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from training.recipe import Augment


class Vary:
    """The recipe's RandAugment, erasing, mixup and CutMix; they draw from torch's global generator."""

    def __init__(self, augment: Augment, classes: int) -> None:
        self.randaugment = v2.RandAugment(magnitude=augment.randaugment) if augment.randaugment else None
        self.erase = v2.RandomErasing(p=augment.erasing) if augment.erasing else None
        mixers = [v2.MixUp(alpha=augment.mixup, num_classes=classes)] if augment.mixup else []
        mixers += [v2.CutMix(alpha=augment.cutmix, num_classes=classes)] if augment.cutmix else []
        self.mix = v2.RandomChoice(mixers) if mixers else None

    def pixels(self, batch: Tensor) -> Tensor:
        """Change every image of uint8 [n, h, w, c] by itself."""
        if self.randaugment is None:
            return batch
        images = [self.randaugment(image) for image in batch.permute(0, 3, 1, 2)]
        return torch.stack(images).permute(0, 2, 3, 1)

    def normalised(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Erase from float [n, c, h, w] and mix images; mixed targets are shares of classes, float [n, classes]."""
        if self.erase is not None:
            x = torch.stack([self.erase(image) for image in x])
        if self.mix is not None:
            x, targets = self.mix(x, targets)
        return x, targets

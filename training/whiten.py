"""A first convolution that starts as the whitening of image patches.

After Page 2018, "How to train your ResNet", and Jordan 2024, https://arxiv.org/abs/2404.00498. Freeze the convolution
(`train.freeze`) to keep it that way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.augment import Normalise
from training.data.feed import Feed
from training.errors import RecipeError

IMAGES = 2_000
FLOOR = 1e-2
"""Added to the variance along each direction, so that directions without signal do not become noise."""


@torch.no_grad()
def whiten(model: nn.Module, feed: Feed, normalise: Normalise) -> None:
    """Fill the first convolution with the directions in which patches vary most, each at unit variance and twice: as
    it is and negated, so that a ReLU loses nothing. Filters beyond those keep their fresh values.

    Raises `RecipeError` for a network without convolutions.
    """
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        raise RecipeError("train.whiten: the network has no convolution")
    _, channels, height, width = convolution.weight.shape
    variances, directions = torch.linalg.eigh(_covariance(feed, normalise, (height, width)))
    count = min(len(variances), convolution.out_channels // 2)
    scaled = (directions / (variances.clamp(min=0) + FLOOR).sqrt()).T.flip(0)[:count]
    filters = scaled.float().reshape(count, channels, height, width)
    convolution.weight[: 2 * count] = torch.cat([filters, -filters])


def _covariance(feed: Feed, normalise: Normalise, size: tuple[int, int]) -> Tensor:
    """Return the covariance of patches of training images, float64 [c * h * w, c * h * w]."""
    chosen = torch.randperm(len(feed), generator=torch.Generator().manual_seed(0))[:IMAGES]
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for pixels, _ in feed.ordered(chosen):
        patches = F.unfold(normalise(pixels), size, stride=size).transpose(1, 2).flatten(0, 1).double()
        count += len(patches)
        total = total + patches.sum(dim=0)
        products = products + patches.T @ patches
    mean = total / count
    return products / count - torch.outer(mean, mean)

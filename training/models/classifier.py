"""What every network here is: features, pooled features, and a head over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network whose `forward(x)` is `head(embed(x))`.

    `x` is float32 [n, channels, height, width], normalised; logits are [n, classes]. A network with `cam` true has
    one linear layer as its head over the global average of `feature_map(x)` [n, d, h, w], so a class activation map
    is the head's weights over that map.
    """

    head: nn.Module
    cam = False
    mirror = False
    """Answer, in evaluation, for the mean of an image's features and those of its mirror image; only where `cam` is."""

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map [n, d, h, w]; without convolutions, that is the image itself."""
        return x

    def seen(self, x: Tensor) -> Tensor:
        """Return the feature map [n, d, h, w] that is pooled; with `mirror`, the mean of two, both lying as `x` does.

        An image and its mirror image go through the network as neighbours in one batch of 2n. The head is linear, so
        the logits are the mean of the two as well (Krizhevsky et al. 2012, section 4.1, average over ten such views).
        """
        if not self.mirror or self.training:
            return self.feature_map(x)
        pairs = torch.stack([x, x.flip(3)], dim=1).flatten(0, 1)
        features = self.feature_map(pairs)
        features = features.reshape(-1, 2, *features.shape[1:])
        return (features[:, 0] + features[:, 1].flip(3)) / 2

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features [n, d] that the head reads."""
        return self.seen(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        logits: Tensor = self.head(self.embed(x))
        return logits

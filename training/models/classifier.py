"""What every network here is: features, pooled features, and a head over them."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """A network whose `forward(x)` is `head(embed(x))`.

    `x` is float32 [n, channels, height, width], normalised; logits are [n, classes]. A network with `cam` true has
    one linear layer as its head over the global average of `feature_map(x)` [n, d, h, w], so a class activation map
    is the head's weights over that map.
    """

    head: nn.Module
    cam = False

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map [n, d, h, w]; without convolutions, that is the image itself."""
        return x

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features [n, d] that the head reads."""
        return self.feature_map(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [n, classes]."""
        logits: Tensor = self.head(self.embed(x))
        return logits

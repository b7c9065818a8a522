"""Augmentation of a whole batch at once, on uint8 tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.recipe import Augment


def gather(pixels: Tensor, indices: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Return the rows `indices` of uint8 [n, h, w, c], each shifted and mirrored at random, in one gather.

    Equal to padding by `crop_padding` with the edge reflected, cropping at random and mirroring one half, without
    ever making the padded copy.
    """
    if not augment.crop_padding and not augment.flip:
        return pixels[indices]
    rows = _positions(pixels.shape[1], len(indices), augment.crop_padding, generator)
    columns = _positions(pixels.shape[2], len(indices), augment.crop_padding, generator)
    if augment.flip:
        mirrored = torch.rand(len(indices), generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _positions(size: int, count: int, padding: int, generator: torch.Generator) -> Tensor:
    """Return int64 [count, size]: which source line each output line shows."""
    shift = torch.randint(-padding, padding + 1, (count, 1), generator=generator)
    lines = (torch.arange(size) + shift).abs()
    return (size - 1) - ((size - 1) - lines).abs()


class Normalise:
    """Turn uint8 [n, h, w, c] into float32 [n, c, h, w], `(x / 255 - mean) / std`, kept channels-last in memory."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.scale = 1 / (255 * torch.tensor(std))
        self.offset = torch.tensor(mean) / torch.tensor(std)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise a batch."""
        scale, offset = self.scale.to(pixels.device), self.offset.to(pixels.device)
        return (pixels.float() * scale - offset).permute(0, 3, 1, 2)


def shrink(x: Tensor, side: int) -> Tensor:
    """Scale float [n, c, h, w] down until its shorter side has `side` pixels, antialiased."""
    height, width = x.shape[2:]
    scale = side / min(height, width)
    size = [round(height * scale), round(width * scale)]
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)

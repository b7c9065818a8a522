"""A whole split as one uint8 tensor: the fast path for small images."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from bundle.errors import ImageError
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess
from torch import Tensor

from training.data.dataset import Split
from training.errors import DataError

SHOWN = 20


@dataclass(frozen=True)
class Images:
    """`pixels`: uint8 [n, height, width, channels] as `bundle.preprocess` makes them; `targets`: int64 [n]."""

    pixels: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def decode(split: Split, recipe: Preprocessing) -> Images:
    """Decode every image of a split through `bundle.preprocess`. Raises `DataError` listing the unreadable ones."""
    first = preprocess(split.encoded(0), recipe).pixels if len(split) else np.zeros((1, 1, recipe.channels), np.uint8)
    pixels = np.empty((len(split), *first.shape), np.uint8)
    problems: list[str] = []

    def read(index: int) -> None:
        try:
            pixels[index] = preprocess(split.encoded(index), recipe).pixels
        except ImageError as error:
            problems.append(f"{split.origin(index)}: {error.detail}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(split))))
    if problems:
        raise unreadable(problems, len(split))
    return Images(torch.from_numpy(pixels), torch.tensor(split.targets(), dtype=torch.int64))


def unreadable(problems: list[str], images: int) -> DataError:
    """Return the error that names images which cannot be decoded."""
    shown = "\n".join(sorted(problems)[:SHOWN])
    advice = "remove them, or leave them out with --set data.skip_unreadable=true"
    return DataError(f"{len(problems)} of {images} images cannot be read; {advice}:\n{shown}")


def channel_statistics(chunks: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 [n, h, w, c] chunks, on the scale 0..1.

    A channel without variation gets the deviation 1, so that normalising it stays finite.
    """
    counts = sum(_level_counts(chunk) for chunk in chunks)
    assert isinstance(counts, Tensor)
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(dim=1)
    mean = (counts * values).sum(dim=1) / total
    deviation = ((counts * (values - mean[:, None]) ** 2).sum(dim=1) / total).sqrt()
    deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return tuple(round(m, 6) for m in mean.tolist()), tuple(round(d, 6) for d in deviation.tolist())


def _level_counts(pixels: Tensor) -> Tensor:
    return torch.stack([torch.bincount(pixels[..., c].flatten(), minlength=256) for c in range(pixels.shape[-1])])

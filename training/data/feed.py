"""How a split reaches the network: all of it as one uint8 tensor, or decoded again in every epoch.

Small images stay in memory and are augmented a batch at a time; photographs are streamed, so memory does not grow with
the data set. Both give the same pixels, through `bundle.preprocess`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from bundle.errors import ImageError
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess
from torch import Tensor

from training.data.augment import gather
from training.data.dataset import Split
from training.data.tensors import Images, decode, unreadable
from training.errors import DataError
from training.recipe import Augment, Recipe
from training.watcher import UNWATCHED, Watcher

MAX_MEMORY_BYTES = 2 * 2**30
"""Splits that decode to more than this are streamed."""
CHUNK = 256
WORKERS = 4
AHEAD = 2
"""Batches decoded ahead of the network."""

Batch = tuple[Tensor, Tensor]
"""uint8 [n, height, width, channels] and int64 [n]."""
Row = np.ndarray | str
"""uint8 [height, width, channels], or why the image cannot be read."""


class Feed(Protocol):
    """A split as batches."""

    @property
    def targets(self) -> Tensor:
        """Classes, int64 [n]."""
        ...

    def __len__(self) -> int: ...

    def ordered(self, indices: Tensor | None = None, batch_size: int = CHUNK) -> Iterator[Batch]:
        """Yield the images as evaluation sees them: all of them, or those of `indices`."""
        ...

    def augmented(self, order: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """Yield one batch for each index tensor of `order`, changed at random; equal seeds give equal batches."""
        ...


@dataclass(frozen=True)
class MemoryFeed:
    """A split that was decoded once."""

    images: Images
    augment: Augment

    @property
    def targets(self) -> Tensor:
        """Classes, int64 [n]."""
        return self.images.targets

    def __len__(self) -> int:
        return len(self.images)

    def ordered(self, indices: Tensor | None = None, batch_size: int = CHUNK) -> Iterator[Batch]:
        """Yield the images as they are."""
        for part in torch.split(torch.arange(len(self)) if indices is None else indices, batch_size):
            yield self.images.pixels[part], self.targets[part]

    def augmented(self, order: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """Shift and mirror a batch in one gather."""
        generator = torch.Generator().manual_seed(seed)
        for indices in order:
            yield gather(self.images.pixels, indices, self.augment, generator), self.targets[indices]


@dataclass(frozen=True)
class StreamFeed:
    """A split that is decoded when it is needed, on threads, a few batches ahead."""

    split: Split
    preprocessing: Preprocessing
    augment: Augment
    workers: int

    @property
    def targets(self) -> Tensor:
        """Classes, int64 [n]."""
        return torch.tensor(self.split.targets(), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.split)

    def ordered(self, indices: Tensor | None = None, batch_size: int = CHUNK) -> Iterator[Batch]:
        """Yield the images through the preprocessing that production uses."""
        chosen = torch.arange(len(self)) if indices is None else indices
        return self._batches(torch.split(chosen, batch_size), None)

    def augmented(self, order: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """Yield random crops at a random scale; every image's choices follow from the seed and its number."""
        return self._batches(order, seed)

    def _batches(self, order: Sequence[Tensor], seed: int | None) -> Iterator[Batch]:
        targets, problems = self.targets, list[str]()
        for indices, rows in self._decoded(order, seed):
            problems += [row for row in rows if isinstance(row, str)]
            if not problems:  # after the first that is unreadable, the others are only looked for
                yield torch.from_numpy(np.stack(rows)), targets[indices]
        if problems:
            raise unreadable(problems, len(self))

    def _decoded(self, order: Sequence[Tensor], seed: int | None) -> Iterator[tuple[Tensor, list[Row]]]:
        pending: deque[tuple[Tensor, list[Future[Row]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for indices in filter(len, order):
                pending.append((indices, [pool.submit(self._read, int(i), seed) for i in indices]))
                if len(pending) > AHEAD:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())

    def _read(self, index: int, seed: int | None) -> Row:
        data = self.split.encoded(index)
        try:
            if seed is None:
                return preprocess(data, self.preprocessing).pixels
            return random_crop(data, self.preprocessing, self.augment, random.Random(f"{seed} {index}"))  # noqa: S311
        except ImageError as error:
            return f"{self.split.origin(index)}: {error.detail}"


def _finished(indices: Tensor, rows: list[Future[Row]]) -> tuple[Tensor, list[Row]]:
    return indices, [row.result() for row in rows]


def random_crop(data: bytes, recipe: Preprocessing, augment: Augment, rng: random.Random) -> np.ndarray:
    """Decode with the shorter side at a random scale, then crop and mirror (scale jitter, VGG section 3.1)."""
    assert recipe.crop_size is not None and recipe.resize_size is not None
    height, width = recipe.crop_size
    scale = rng.uniform(*augment.scale) if augment.scale else 1.0
    resized = (round(recipe.resize_size[0] * scale), round(recipe.resize_size[1] * scale))
    resized = (max(resized[0], height), max(resized[1], width))
    if recipe.resize == "shorter_side":
        resized = (max(resized), max(resized))
    pixels = preprocess(data, recipe.model_copy(update={"resize_size": resized, "crop_size": None})).pixels
    if padding := augment.crop_padding:
        pixels = np.pad(pixels, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    top, left = rng.randint(0, pixels.shape[0] - height), rng.randint(0, pixels.shape[1] - width)
    crop = pixels[top : top + height, left : left + width]
    return crop[:, ::-1].copy() if augment.flip and rng.random() < 0.5 else crop


def open_feed(split: Split, recipe: Recipe) -> Feed:
    """Decode a split into memory, or stream it where the recipe says so or it is too large."""
    size = recipe.input.height * recipe.input.width * recipe.input.channels * len(split)
    loading = recipe.data.loading
    if loading == "auto":
        loading = "stream" if recipe.augment.scale or size > MAX_MEMORY_BYTES else "memory"
    if loading == "memory":
        if recipe.augment.scale:
            raise DataError("augment.scale needs the original images: set data.loading to stream or auto")
        return MemoryFeed(decode(split, recipe.input.preprocessing()), recipe.augment)
    return StreamFeed(split, recipe.input.preprocessing(), recipe.augment, recipe.data.workers)


def in_order(
    split: Split, preprocessing: Preprocessing, batch_size: int = CHUNK, watcher: Watcher = UNWATCHED
) -> Iterator[Tensor]:
    """Yield a split as evaluation sees it, uint8 [n, height, width, channels], a few batches in memory at a time.

    Raises `DataError` naming every image that cannot be read.
    """
    feed, done = StreamFeed(split, preprocessing, Augment(), WORKERS), 0
    for pixels, _ in feed.ordered(batch_size=batch_size):
        yield pixels
        done += len(pixels)
        watcher.images("evaluating", done, len(split))


def require_readable(split: Split, preprocessing: Preprocessing) -> None:
    """Decode a split, so that no image stops a run at its end. Raises `DataError` naming those that cannot be read."""
    for _ in in_order(split, preprocessing):
        pass

"""A data set is three splits of encoded images. An image's split is a hash of its content, for life.

When a folder grows, no image moves from one split to another, so a retrained candidate is never judged on what its
champion learned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Item:
    """One image: how to read its file, the SHA-256 of its content, its class and where it came from.

    The content is the file's bytes, or the pixels where the source holds arrays.
    """

    read: Callable[[], bytes]
    digest: str
    target: int
    origin: str


class Split:
    """A sequence of images with their classes; bytes are read when asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def target(self, index: int) -> int:
        """Return the class index of an image."""
        return self.items[index].target

    def targets(self) -> list[int]:
        """Return the class index of every image."""
        return [item.target for item in self.items]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file."""
        return self.items[index].read()

    def digest(self, index: int) -> str:
        """Return the SHA-256 of the image's content, as hex."""
        return self.items[index].digest

    def origin(self, index: int) -> str:
        """Return where the image came from: a path, or a position in its source."""
        return self.items[index].origin


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits and the labels in index order."""

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted content hashes with their labels: equal for equal data, whatever its order."""
        parts = (self.train, self.validation, self.test)
        lines = sorted(f"{item.digest} {self.labels[item.target]}" for split in parts for item in split.items)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digest(file: bytes) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    return hashlib.sha256(file).hexdigest()


def position(digest: str) -> float:
    """Map a content hash to [0, 1): below `test_fraction` is test, then validation, then train."""
    return int(digest[:16], 16) / 2**64


def split_by_content(
    name: str,
    labels: Sequence[str],
    items: Sequence[Item],
    held_out: Sequence[Item] | None,
    *,
    validation_fraction: float,
    test_fraction: float,
    train_fraction: float = 1.0,
) -> Dataset:
    """Split `items` by content hash; a source's own test images (`held_out`) stay its test split as they are.

    Of the training images only `train_fraction` are kept; a smaller part lies within a larger one.
    """
    below = 0.0 if held_out is not None else test_fraction
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    first = below + validation_fraction
    last = first + train_fraction * (1 - first) if train_fraction < 1 else 1.0
    for item in items:
        where = position(item.digest)
        if where < last:
            parts[0 if where >= first else 1 if where >= below else 2].append(item)
    test = held_out if held_out is not None else parts[2]
    return Dataset(name, tuple(labels), Split(parts[0]), Split(parts[1]), Split(test))

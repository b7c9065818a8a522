"""Newly labelled images beside the data that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from training.data.dataset import Item
from training.data.folder import items_below
from training.errors import DataError


def with_feedback(
    items: Sequence[Item], root: Path, labels: Sequence[str], digest_of: Callable[[bytes], str]
) -> list[Item]:
    """Return the items with the images of a folder per class added; `digest_of` hashes a file as their source does.

    An image that is there already is not added twice; where its new label is another one, the new label counts. Raises
    `DataError` for a folder that is not there or names a class that the data has not.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; feedback lies in one folder per class")
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if unknown := [name for name in folders if name not in labels]:
        raise DataError(f"{root / unknown[0]} is no class of the data; classes are {', '.join(labels)}")
    added = {item.digest: item for item in items_below(root, labels, digest_of)}
    return [added.pop(item.digest, item) for item in items] + list(added.values())

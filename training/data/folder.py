"""A folder per class: `<root>/<class>/<image>`, or the same below `train/` and `test/` (or `val/`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from training.data.dataset import Item, file_digest
from training.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The first of these beside `train/` is the held-out split."""


def read_folder(root: Path) -> tuple[list[str], list[Item], list[Item] | None]:
    """Return the labels (folder names, sorted), the images and, where there is a test folder, its images.

    Raises `DataError` when there is no folder per class, when a class of the test folder is not one of the training
    folder's, or when a class is empty.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected one folder per class, or train/ and test/ with them")
    train = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None) if train.is_dir() else None
    top = train if train.is_dir() else root
    labels = _classes(top)
    if test is not None and (extra := sorted(set(_classes(test)) - set(labels))):
        raise DataError(f"{test} has the class {extra[0]}, which {top} has not; classes there: {', '.join(labels)}")
    items = list(items_below(top, labels))
    filled = {item.target for item in items}
    if empty := [label for index, label in enumerate(labels) if index not in filled]:
        raise DataError(f"{top / empty[0]} holds no image ({', '.join(sorted(SUFFIXES))})")
    return labels, items, list(items_below(test, labels)) if test is not None else None


def _classes(root: Path) -> list[str]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{root} holds {len(names)} class folders; at least 2 are needed")
    return names


def items_below(root: Path, labels: Sequence[str], digest_of: Callable[[bytes], str] = file_digest) -> Iterator[Item]:
    """Yield the images below `<root>/<label>/`, in order, each with its content hash."""
    for target, label in enumerate(labels):
        if (root / label).is_dir():
            paths = (path for path in (root / label).rglob("*") if path.suffix.lower() in SUFFIXES)
            for path in sorted(paths):
                yield Item(path.read_bytes, digest_of(path.read_bytes()), target, str(path))

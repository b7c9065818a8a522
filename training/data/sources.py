"""Open the data that a recipe names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from bundle.errors import ImageError
from bundle.preprocess import preprocess

from training.data.arrays import digest_of_pixels_in, read_digits
from training.data.dataset import Dataset, Item, file_digest, split_by_content
from training.data.feedback import with_feedback
from training.data.folder import read_folder
from training.data.originals import read_original
from training.errors import DataError
from training.recipe import Data, Input

ARRAYS: dict[str, Literal["rgb", "grey"]] = {
    "digits": "grey",
    "cifar10": "rgb",
    "cifar100": "rgb",
    "mnist": "grey",
    "fashion-mnist": "grey",
}
"""Sources that hold arrays instead of files, with their color; their images are known by their pixels."""
_ANY = Input(color="rgb", resize="stretch").preprocessing()
"""Decodes whatever can be decoded."""


def open_dataset(name: str, data: Data) -> Dataset:
    """Read labels, content hashes and splits; images are read later, when asked for. Raises `DataError`."""
    labels, items, held_out = _read(data)
    if data.feedback is not None:
        color = ARRAYS.get(data.source)
        digest_of = partial(digest_of_pixels_in, color=color) if color else file_digest
        items = with_feedback(items, Path(data.feedback), labels, digest_of)
    if data.skip_unreadable:
        items, held_out = _readable(items), _readable(held_out) if held_out is not None else None
    return split_by_content(
        name,
        labels,
        items,
        held_out,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        train_fraction=data.train_fraction,
    )


def _read(data: Data) -> tuple[list[str], list[Item], list[Item] | None]:
    if data.source == "digits":
        return *read_digits(), None
    if data.path is None:
        raise DataError(f"data.path is not set; name the folder with --data for data.source {data.source}")
    if data.source == "folder":
        return read_folder(Path(data.path))
    return read_original(data.source, Path(data.path), download=data.download, url=data.url)


def _readable(items: list[Item]) -> list[Item]:
    """Return the images that decode; one pass over all of them."""

    def decodes(item: Item) -> bool:
        try:
            preprocess(item.read(), _ANY)
        except ImageError:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        return [item for item, good in zip(items, pool.map(decodes, items), strict=True) if good]

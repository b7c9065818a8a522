"""Open the data that a recipe names."""

from __future__ import annotations

from pathlib import Path

from training.data.arrays import read_digits
from training.data.dataset import Dataset, Item, split_by_content
from training.data.feedback import with_feedback
from training.data.folder import read_folder
from training.errors import DataError
from training.recipe import Data


def open_dataset(name: str, data: Data) -> Dataset:
    """Read labels, content hashes and splits; images are read later, when asked for. Raises `DataError`."""
    held_out: list[Item] | None = None
    if data.source == "digits":
        labels, items = read_digits()
    else:
        if data.path is None:
            raise DataError(f"data.path is not set; name the folder with --data for data.source {data.source}")
        labels, items, held_out = read_folder(Path(data.path))
    if data.feedback is not None:
        items = with_feedback(items, Path(data.feedback), labels)
    return split_by_content(
        name,
        labels,
        items,
        held_out,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
    )

"""What is in a folder of images, and what is wrong with it, before anything is trained."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bundle.errors import ImageError
from bundle.preprocess import preprocess
from PIL import Image

from training.data.dataset import Dataset, Item
from training.recipe import Input

NEAR_BITS = 3
"""Difference hashes of 64 bits that differ in at most so many belong to near duplicates."""
PAIRWISE_LIMIT = 20_000
"""Above this many images only equal hashes are found: comparing all pairs would take too long."""
OUTLIER_DEVIATIONS = 5.0
"""Robust deviations (1.4826 median absolute deviations) from the median brightness that make an image an outlier."""
RARE_FORMAT_SHARE = 0.05

_GREY = Input(height=8, width=9, color="grey", resize="stretch", interpolation="box").preprocessing()


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as the report sees it."""

    item: Item
    split: str
    format: str
    mode: str
    size: tuple[int, int]
    """Width, height as stored."""
    brightness: float
    """Mean, 0..255."""
    hash: int
    """Difference hash: 64 comparisons of neighbours in the 9x8 grey image."""


@dataclass
class DataReport:
    """Everything found; paths are as the source gives them."""

    images: int
    classes: dict[str, dict[str, int]]
    """Label to split to count."""
    imbalance: float
    """Images of the largest class over those of the smallest."""
    sizes: dict[str, int]
    modes: dict[str, int]
    formats: dict[str, int]
    unreadable: dict[str, str]
    odd: list[str]
    exact_duplicates: list[list[str]]
    near_duplicates: list[list[str]]
    leaks: list[list[str]]
    """Groups of duplicates, exact or near, that lie in several splits."""
    conflicts: list[list[str]]
    """Exact duplicates with different labels."""
    brightness_outliers: dict[str, float]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def examine(dataset: Dataset) -> DataReport:
    """Read every image once and report on all of them."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    entries = [(item, name) for name, split in splits.items() for item in split.items]
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(lambda entry: _look(*entry), entries))
    seen = [found for found in looked if isinstance(found, Seen)]
    exact = _groups(seen, lambda one: one.item.digest)
    near, notes = _near(seen)
    return DataReport(
        images=len(entries),
        classes=_counts(dataset, entries),
        imbalance=_imbalance(item.target for item, _ in entries),
        sizes=_tally(f"{one.size[0]}x{one.size[1]}" for one in seen),
        modes=_tally(one.mode for one in seen),
        formats=_tally(one.format for one in seen),
        unreadable={e[0].origin: found for e, found in zip(entries, looked, strict=True) if isinstance(found, str)},
        odd=_odd(seen),
        exact_duplicates=_origins(exact),
        near_duplicates=_origins(near),
        leaks=_origins(group for group in [*exact, *near] if len({one.split for one in group}) > 1),
        conflicts=_origins(group for group in exact if len({one.item.target for one in group}) > 1),
        brightness_outliers=_outliers(seen),
        notes=notes,
    )


def _look(item: Item, split: str) -> Seen | str:
    data = item.read()
    try:
        grey = preprocess(data, _GREY).pixels[..., 0]
    except ImageError as error:
        return error.detail
    with Image.open(io.BytesIO(data)) as image:
        facts = (str(image.format), image.mode, image.size)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return Seen(item, split, *facts, float(grey.mean()), int(np.packbits(bits).view(">u8")[0]))


def _counts(dataset: Dataset, entries: list[tuple[Item, str]]) -> dict[str, dict[str, int]]:
    counted = Counter((dataset.labels[item.target], split) for item, split in entries)
    return {label: {s: counted[label, s] for s in ("train", "validation", "test")} for label in dataset.labels}


def _imbalance(targets: Iterable[int]) -> float:
    counts = Counter(targets).values()
    return max(counts) / min(counts) if counts else 1.0


def _tally(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common(20))


def _odd(seen: list[Seen]) -> list[str]:
    """Name the files of a rare format: often a placeholder that a download left."""
    formats = Counter(one.format for one in seen)
    rare = {name for name, count in formats.items() if count < RARE_FORMAT_SHARE * len(seen)}
    return [
        f"{one.item.origin}: {one.format}, while most are {formats.most_common(1)[0][0]}"
        for one in seen
        if one.format in rare
    ]


def _groups(seen: list[Seen], key: Any) -> list[list[Seen]]:
    groups: dict[Any, list[Seen]] = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return [group for group in groups.values() if len(group) > 1]


def _near(seen: list[Seen]) -> tuple[list[list[Seen]], list[str]]:
    """Group images of nearly equal difference hashes, without the exact duplicates and the flat images."""
    distinct = list({one.item.digest: one for one in seen if one.hash not in (0, 2**64 - 1)}.values())
    if len(distinct) > PAIRWISE_LIMIT:
        note = f"more than {PAIRWISE_LIMIT} images: near duplicates are those of equal hash only"
        return _groups(distinct, lambda one: one.hash), [note]
    hashes, parent = np.array([one.hash for one in distinct], np.uint64), list(range(len(distinct)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for index in range(len(distinct)):
        close = np.flatnonzero(np.bitwise_count(hashes[index + 1 :] ^ hashes[index]) <= NEAR_BITS)
        for other in close + index + 1:
            parent[root(int(other))] = root(index)
    roots = {id(one): root(index) for index, one in enumerate(distinct)}
    return _groups(distinct, lambda one: roots[id(one)]), []


def _origins(groups: Iterable[list[Seen]]) -> list[list[str]]:
    return [[one.item.origin for one in group] for group in groups]


def _outliers(seen: list[Seen]) -> dict[str, float]:
    values = np.array([one.brightness for one in seen])
    if not len(values):
        return {}
    middle = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - middle))
    far = np.abs(values - middle) > OUTLIER_DEVIATIONS * max(deviation, 1.0)
    return {Path(seen[i].item.origin).as_posix(): round(float(values[i]), 1) for i in np.flatnonzero(far)}

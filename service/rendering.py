"""From probabilities to the JSON of `/predict`: fragments are made once per version, numbers are filled in."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from bundle.preprocess import InputInfo

from service.port import ServedModel

Row = npt.NDArray[np.float32]
_SORT_ALL = 128
"""Up to this many classes, sorting all of them is quicker than partitioning first."""


class ModelText:
    """The parts of an answer that are the same for every request to one version."""

    def __init__(self, served: ServedModel) -> None:
        self.model = json.dumps(
            {
                "name": served.name,
                "version": str(served.version),
                "digest": served.digest,
                "variant": served.variant,
            }
        )
        self.labels = [
            f'{{"label": {json.dumps(label)}, "index": {index}, "probability": '
            for index, label in enumerate(served.manifest.labels)
        ]

    def predictions(self, row: Row, k: int) -> str:
        """Render the k most probable classes of one row, most probable first, to seven digits."""
        order = top_k(row, k)
        labels = self.labels
        values = row[order].tolist()
        parts = [f"{labels[index]}{value:.7g}}}" for index, value in zip(order.tolist(), values, strict=True)]
        return f"[{', '.join(parts)}]"


@lru_cache(maxsize=64)
def text_of(served: ServedModel) -> ModelText:
    """Return the prepared text of a version."""
    return ModelText(served)


def top_k(row: Row, k: int) -> npt.NDArray[np.intp]:
    """Return the indices of the k largest probabilities, largest first, ties in index order."""
    if len(row) <= _SORT_ALL or k > len(row) // 2:
        return np.argsort(-row, kind="stable")[:k]
    chosen = np.sort(np.argpartition(-row, k)[:k])
    return chosen[np.argsort(-row[chosen], kind="stable")]


@lru_cache(maxsize=4096)
def _input_text(format_: str, width: int, height: int, orientation: int, notes: tuple[str, ...]) -> str:
    fields = {"format": format_, "width": width, "height": height, "orientation": orientation, "notes": list(notes)}
    return json.dumps(fields)


def input_text(info: InputInfo) -> str:
    """Render how an image was read."""
    return _input_text(info.format, info.width, info.height, info.orientation, tuple(info.notes))


def extras_of(row: Row, embedding: Row | None, threshold: float | None) -> tuple[bool, str]:
    """Return whether the answer abstains, and the members that only some requests ask for.

    It abstains when no class reaches `threshold`: no predictions, and `abstained` says what the highest was.
    """
    extra = ""
    highest = float(row.max())
    abstains = threshold is not None and highest < threshold
    if abstains:
        extra += f', "abstained": {{"threshold": {threshold:.7g}, "highest": {highest:.7g}}}'
    if embedding is not None:
        extra += f', "embedding": [{", ".join([f"{value:.9g}" for value in embedding.tolist()])}]'
    return abstains, extra


def result_text(text: ModelText, row: Row, k: int, info: InputInfo, extra: str = "") -> str:
    """Render the members that answer one image; `extra` is put before `input`, and k = 0 gives no predictions."""
    return f'"predictions": {text.predictions(row, k)}{extra}, "input": {input_text(info)}'


def single_answer(request_id: str, text: ModelText, result: str) -> str:
    """Render the answer to one image."""
    return f'{{"request_id": "{request_id}", "model": {text.model}, {result}}}\n'


def many_answer(request_id: str, text: ModelText, results: list[str]) -> str:
    """Render the answer to several images."""
    return f'{{"request_id": "{request_id}", "model": {text.model}, "results": [{", ".join(results)}]}}\n'

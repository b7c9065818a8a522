"""Whether rows are what a served version takes, asked on whichever side of the sockets they enter."""

from __future__ import annotations

import numpy as np

from service.errors import RequestInvalid
from service.port import Rows, ServedModel


def check_request(served: ServedModel, rows: Rows, outputs: tuple[str, ...]) -> None:
    """Refuse rows of another shape or type and outputs that the graph does not have. Raises `RequestInvalid`."""
    manifest = served.manifest
    shape = (manifest.height, manifest.width, manifest.preprocessing.channels)
    if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[1:] != shape or not len(rows):
        raise RequestInvalid(f"The model takes uint8 [n, {', '.join(map(str, shape))}], not {rows.dtype} {rows.shape}.")
    names = [spec.name for spec in manifest.outputs]
    for name in outputs:
        if name not in names:
            raise RequestInvalid(f"No output {name!r}; there are {', '.join(names)}.")

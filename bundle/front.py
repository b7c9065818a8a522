"""What cannot be read from a network's file and must be said: how it wants its pixels, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bundle.manifest import Preprocessing


@dataclass(frozen=True, slots=True)
class Front:
    """How a core wants its pixels: `(pixel / divisor - mean) / std`, per channel in the core's own order."""

    layout: Literal["NCHW", "NHWC"]
    color: Literal["RGB", "BGR", "GREY"]
    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Channels of the image: 1 for grey, else 3."""
        return 1 if self.color == "GREY" else 3


@dataclass(frozen=True, slots=True)
class Description:
    """What the importer is told about a file."""

    name: str
    labels: tuple[str, ...]
    front: Front
    preprocessing: Preprocessing
    output: Literal["logits", "probabilities"]
    output_name: str | None = None

"""Repeats of one measurement: median, lowest and highest, and ratios that are paired repeat by repeat."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The values of all repeats, in their order."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Keep the values as they come."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def per(self, other: Spread) -> Spread:
        """Divide repeat by repeat: both sides of a pair met the same machine."""
        return Spread.of(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))

    def show(self, digits: int = 1) -> str:
        """Render as `median (lowest to highest)`."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Render a Markdown table; every column but the first is aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

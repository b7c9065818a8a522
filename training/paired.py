"""Two classifiers on the same images: the difference of their accuracies, its interval and McNemar's test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

EXACT_BELOW = 25
"""With fewer images on which one is right and the other wrong, McNemar's test counts instead of approximating."""


@dataclass(frozen=True, slots=True)
class Paired:
    """`difference` is the second's accuracy minus the first's; `agreement` the share with the same answer."""

    n: int
    first_only: int
    """Images that only the first answers rightly."""
    second_only: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    agreement: float


def compare(
    first: npt.NDArray[np.integer], second: npt.NDArray[np.integer], targets: npt.NDArray[np.integer]
) -> Paired:
    """Compare two lists of predicted classes with the true ones, all [n]."""
    right_first, right_second = first == targets, second == targets
    b, c = int((right_first & ~right_second).sum()), int((~right_first & right_second).sum())
    n = len(targets)
    table = [[int((right_first & right_second).sum()), b], [c, int((~right_first & ~right_second).sum())]]
    exact = b + c < EXACT_BELOW
    test = mcnemar(table, exact=exact, correction=not exact) if b + c else None
    return Paired(
        n=n,
        first_only=b,
        second_only=c,
        difference=(c - b) / n,
        interval=paired_interval(b, c, n),
        p_value=min(1.0, float(test.pvalue)) if test else 1.0,
        agreement=float((first == second).mean()),
    )


def paired_interval(first_only: int, second_only: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of (second_only - first_only) / n.

    Agresti and Min 2005, https://doi.org/10.1002/sim.1781: Wald's interval with one half added to each discordant cell
    and two to n, which keeps its coverage where few images differ.
    """
    b, c, total = first_only + 0.5, second_only + 0.5, n + 2
    middle = (c - b) / total
    half = float(norm.ppf(0.975)) * np.sqrt((b + c) - (c - b) ** 2 / total) / total
    return max(-1.0, float(middle - half)), min(1.0, float(middle + half))

"""Find a learning rate and a batch size by short trials on the recipe's own data."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from training.checkpoint import write_bytes
from training.data import open_dataset
from training.data.augment import Normalise
from training.data.feed import Feed, open_feed
from training.data.tensors import channel_statistics
from training.device import pick_device
from training.distributed import World
from training.errors import DataError
from training.loss import make_loss
from training.optimizer import set_rate
from training.recipe import Recipe
from training.runs import make_model
from training.step import Stepper

LOWEST_RATE, HIGHEST_RATE = 1e-5, 10.0
DIVERGED = 4.0
"""The trial ends when the smoothed loss is this many times its minimum."""
WORTHWHILE = 1.05
"""A doubled batch must train at least this many times faster, or the smaller one is kept."""


@dataclass(frozen=True, slots=True)
class RateTrial:
    """Learning rates, the smoothed loss at each, and the rate to take as the schedule's peak."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


@dataclass(frozen=True, slots=True)
class BatchTrial:
    """Images a second at each batch size, and the size to take."""

    images_per_second: dict[int, float]
    suggested: int


class _Trial:
    """A fresh network and batches without end."""

    def __init__(self, recipe: Recipe) -> None:
        dataset = open_dataset(recipe.name, recipe.data)
        if not len(dataset.train):
            raise DataError("the train split is empty")
        self.recipe, self.feed = recipe, open_feed(dataset.train, recipe)
        self.classes, self.device = len(dataset.labels), pick_device(recipe.train.device)
        self.normalise = Normalise(*channel_statistics(pixels for pixels, _ in self.feed.ordered()))

    def stepper(self) -> Stepper:
        torch.manual_seed(self.recipe.train.seed)
        model = make_model(self.recipe, self.classes).to(self.device)
        model.train()
        loss = make_loss(self.recipe.train, self.feed.targets, self.classes)
        return Stepper(model, self.recipe.train, loss, World(), self.device)

    def batches(self, count: int, size: int) -> list[tuple[Tensor, Tensor]]:
        order = _cycle(self.feed, count, size, self.recipe.train.seed)
        drawn = self.feed.augmented(order, self.recipe.train.seed)
        return [(self.normalise(pixels.to(self.device)), targets.to(self.device)) for pixels, targets in drawn]


def _cycle(feed: Feed, count: int, size: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    needed = math.ceil(count * size / len(feed))
    indices = torch.cat([torch.randperm(len(feed), generator=generator) for _ in range(needed)])
    return list(torch.split(indices, size))[:count]


def find_rate(recipe: Recipe, steps: int = 100) -> RateTrial:
    """Raise the learning rate exponentially, step by step, until the loss diverges (Smith 2017, arXiv:1506.01186).

    The suggestion is a tenth of the rate at which the smoothed loss was least: still falling fast, far from the edge.
    """
    trial = _Trial(recipe)
    stepper, rates, losses, smoothed = trial.stepper(), [], [], 0.0
    for index, (x, targets) in enumerate(trial.batches(steps, recipe.train.batch_size)):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (index / max(1, steps - 1))
        set_rate(stepper.optimizer, rate)
        loss, _ = stepper.step(x, targets, len(targets))
        smoothed = 0.9 * smoothed + 0.1 * float(loss) / len(targets)
        rates.append(rate)
        losses.append(smoothed / (1 - 0.9 ** (index + 1)))
        if not losses[-1] < DIVERGED * min(losses):
            break
    finite = [value if math.isfinite(value) else math.inf for value in losses]
    return RateTrial(tuple(rates), tuple(losses), rates[finite.index(min(finite))] / 10)


def plot_rates(trial: RateTrial, path: Path) -> None:
    """Write the loss over the learning rate as PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(trial.rates, trial.losses)
    axes.axvline(trial.suggested, linestyle=":", color="grey", label=f"suggested {trial.suggested:.3g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("smoothed loss")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())


def find_batch(
    recipe: Recipe, *, largest: int = 1024, steps: int = 3, tried: Callable[[int, float], None] | None = None
) -> BatchTrial:
    """Double the batch while that trains faster and fits into memory."""
    trial, found, size = _Trial(recipe), dict[int, float](), 8
    while size <= largest:
        try:
            found[size] = _speed(trial, size, steps)
        except (RuntimeError, MemoryError) as error:
            if not found or "memory" not in str(error).lower():
                raise
            break
        if tried:
            tried(size, found[size])
        if size // 2 in found and found[size] < WORTHWHILE * found[size // 2]:
            break
        size *= 2
    fastest = max(found.values())
    return BatchTrial(found, next(size for size, speed in found.items() if speed * WORTHWHILE >= fastest))


def _speed(trial: _Trial, size: int, steps: int) -> float:
    stepper = trial.stepper()
    batches = trial.batches(steps + 1, size)
    set_rate(stepper.optimizer, 1e-4)
    stepper.step(*batches[0], size)  # the first step allocates
    started = time.monotonic()
    for x, targets in batches[1:]:
        stepper.step(x, targets, size)
    return steps * size / (time.monotonic() - started)

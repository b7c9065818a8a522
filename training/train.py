"""A training run from recipe to run folder, readable from top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.averaging import AveragedModel
from training.checkpoint import load, save, write_json
from training.curves import plot_curves
from training.data import Dataset, open_dataset
from training.data.augment import Normalise, gather, shrink
from training.data.tensors import Images, channel_statistics, decode
from training.errors import DataError, RunError, TrainingError
from training.evaluate import logits_of, score
from training.optimizer import make_optimizer
from training.recipe import Recipe, Train, parse_recipe
from training.runs import (
    BEST_FILE,
    LAST_FILE,
    LOG_FILE,
    RUN_FILE,
    TEST_FILE,
    environment,
    load_weights,
    make_model,
    new_run_folder,
    read_facts,
)
from training.schedule import learning_rate_factor


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Losses are in nats; the training figures are over the augmented images as they passed."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float
    best: bool


Progress = Callable[[Epoch, int], None]


def train(
    recipe: Recipe,
    *,
    runs: Path | str = "runs",
    progress: Progress | None = None,
    warm_start: Mapping[str, Tensor] | None = None,
    parent: int | None = None,
) -> Path:
    """Train a recipe and return its run folder.

    `warm_start` is a state dict to begin from and `parent` the bundle version it came with. Raises a `TrainingError`
    for data or weights that do not fit, before any epoch, and when the loss stops being a number.
    """
    dataset = open_dataset(recipe.name, recipe.data)
    images = _decoded(dataset, recipe)
    mean, std = channel_statistics(images["train"].pixels)
    path = new_run_folder(Path(runs), recipe.name, recipe.train.seed)
    write_json(path / RUN_FILE, _facts(recipe, dataset, mean, std, parent))
    return _Run(path, recipe, dataset, images, Normalise(mean, std), warm_start).finish(progress)


def resume(path: Path | str, *, progress: Progress | None = None, data: str | None = None) -> Path:
    """Go on with a run that was stopped, from its last checkpoint; a finished run is returned as it is.

    Raises `RunError` when the data is no longer what the run was started with.
    """
    path = Path(path)
    facts = read_facts(path)
    values = facts["recipe"]
    if data is not None:
        values["data"]["path"] = str(Path(data).resolve())
    recipe = parse_recipe(values)
    dataset = open_dataset(recipe.name, recipe.data)
    if dataset.fingerprint != facts["data"]["fingerprint"]:
        raise RunError(f"{path}: the data has changed since the run began; start a new run")
    images = _decoded(dataset, recipe)
    normalise = Normalise(tuple(facts["mean"]), tuple(facts["std"]))
    return _Run(path, recipe, dataset, images, normalise, None).finish(progress)


def _decoded(dataset: Dataset, recipe: Recipe) -> dict[str, Images]:
    parts = {"train": dataset.train, "validation": dataset.validation}
    for name, split in parts.items():
        if not len(split):
            sizes = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test"
            raise DataError(f"the {name} split is empty ({sizes}); change data.validation_fraction or add images")
    return {name: decode(split, recipe.input.preprocessing()) for name, split in parts.items()}


class _Run:
    """The state of a run between epochs. Every random choice of an epoch follows from the seed and its number."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        dataset: Dataset,
        images: dict[str, Images],
        normalise: Normalise,
        warm_start: Mapping[str, Tensor] | None,
    ) -> None:
        self.path, self.recipe, self.dataset, self.images, self.normalise = path, recipe, dataset, images, normalise
        torch.manual_seed(recipe.train.seed)
        torch.set_flush_denormal(True)  # weights that decayed to almost nothing slow a CPU down many times
        self.model = make_model(recipe, len(dataset.labels))
        if warm_start is not None:
            load_weights(self.model, dict(warm_start), Path("the weights to start from"))
        if recipe.train.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, recipe.train.ema_decay)
        self.optimizer = make_optimizer(self.model, recipe.train)
        self.history: list[dict[str, Any]] = []
        if (path / LAST_FILE).exists():
            self._restore(load(path / LAST_FILE))

    def finish(self, progress: Progress | None) -> Path:
        """Run the epochs that are left, then read the test split, once."""
        while len(self.history) < self.recipe.train.epochs:
            epoch = self._epoch(len(self.history) + 1)
            self.history.append(asdict(epoch))
            self._keep(epoch)
            if progress:
                progress(epoch, self.recipe.train.epochs)
        if not (self.path / TEST_FILE).exists() and len(self.dataset.test):
            write_json(self.path / TEST_FILE, self._test())
        return self.path

    def _epoch(self, number: int) -> Epoch:
        started = time.monotonic()
        loss, accuracy, rate = self._pass(number)
        seconds = time.monotonic() - started
        if not loss < float("inf"):
            raise TrainingError(f"the loss is {loss} in epoch {number}: lower train.learning_rate")
        validation_loss, validation_accuracy = self._validate()
        best = validation_accuracy > max((e["validation_accuracy"] for e in self.history), default=-1.0)
        speed = len(self.images["train"]) / seconds
        return Epoch(
            epoch=number,
            train_loss=round(loss, 5),
            train_accuracy=round(accuracy, 5),
            validation_loss=round(validation_loss, 5),
            validation_accuracy=round(validation_accuracy, 5),
            learning_rate=round(rate, 6),
            seconds=round(seconds, 3),
            images_per_second=round(speed, 1),
            best=best,
        )

    def _pass(self, number: int) -> tuple[float, float, float]:
        """Train on every image once; return the mean loss, the accuracy and the last learning rate."""
        settings, images = self.recipe.train, self.images["train"]
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
        torch.manual_seed(settings.seed * 1_000_003 + number)  # dropout draws from the global generator
        self.model.train()
        batches = torch.split(torch.randperm(len(images), generator=generator), settings.batch_size)
        loss_sum, correct, rate = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0.0
        for index, indices in enumerate(batches):
            factor = learning_rate_factor((number - 1) * len(batches) + index, settings.epochs * len(batches), settings)
            rate = self._set_rate(settings.learning_rate * factor)
            x = self.normalise(gather(images.pixels, indices, self.recipe.augment, generator))
            if settings.small_side and number <= settings.small_fraction * settings.epochs:
                x = shrink(x, settings.small_side)
            loss, logits = self._step(x, images.targets[indices])
            loss_sum += loss * len(indices)
            correct += (logits.argmax(dim=1) == images.targets[indices]).sum()
        return float(loss_sum) / len(images), int(correct) / len(images), rate

    def _step(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.recipe.train):
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.train.label_smoothing)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.average.update(self.model)
        return loss.detach(), logits.detach()

    def _set_rate(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _validate(self) -> tuple[float, float]:
        logits = logits_of(self.average.model, self.images["validation"], self.normalise)
        targets = self.images["validation"].targets
        return float(F.cross_entropy(logits, targets)), float((logits.argmax(dim=1) == targets).float().mean())

    def _keep(self, epoch: Epoch) -> None:
        """Write the checkpoints; `last.pt` goes last, because it decides where a resumed run goes on."""
        if epoch.best:
            save(self.path / BEST_FILE, _contiguous(self.average.model))
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        (self.path / LOG_FILE).write_text(lines)
        plot_curves(self.history, self.path / "curves.png")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "average_step": self.average.step,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        save(self.path / LAST_FILE, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.step = state["average_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]

    def _test(self) -> dict[str, Any]:
        best = make_model(self.recipe, len(self.dataset.labels))
        load_weights(best, load(self.path / BEST_FILE), self.path / BEST_FILE)
        images = decode(self.dataset.test, self.recipe.input.preprocessing())
        probabilities = logits_of(best, images, self.normalise).softmax(dim=1)
        return score(probabilities.numpy(), images.targets.numpy(), self.dataset.labels).to_json()


def autocast(settings: Train) -> AbstractContextManager[Any]:
    """Return the context in which the forward pass runs in the recipe's precision."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if settings.precision == "bf16" else nullcontext()


def _contiguous(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}


def _facts(
    recipe: Recipe, dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...], parent: int | None
) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "labels": list(dataset.labels),
        "mean": mean,
        "std": std,
        "parent": parent,
        "data": {
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
        },
        "environment": environment(),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
